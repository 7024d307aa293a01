"""What a training step holds in memory, in pieces and rematerialised, and its speed.

    python -m benchmarks.step_memory --arch resnet18 --batch-size 128 --grad-accum 1,2,4
    python -m benchmarks.step_memory --arch wrn28-10 --batch-size 125 --no-time

The memory is what XLA plans for one device. On the CPU its convolutions and layouts are
others than on a GPU: compare the rows, not the numbers with those of another backend.
Rows of earlier calls stay in the file, as long as they are of another case.
"""

import argparse
import itertools
import os
import statistics
import time

import equinox as eqx
import jax
import jax.numpy as jnp

from eqcifar import models, training
from eqcifar.parallel import make_mesh, replicate
from eqcifar.training._batch import Epoch
from eqcifar.training._memory import planned_memory
from eqcifar.training._recipe import make_recipe
from eqcifar.training._step import make_steps

from .records import read, store

NUM_TRAIN = 2000


def prepare(arch, width, batch_size, bn_group, grad_accum, remat):
    """The compiled step of a case, its arguments, memory and time of compilation."""
    config = training.TrainConfig(
        arch=arch, width=width, batch_size=batch_size, bn_group=bn_group, epochs=1
    )
    key = jax.random.key(0)
    model, state = models.create(arch, 10, width=width, key=key)
    mesh = make_mesh(1)
    start = training.initialise(model, state, config, NUM_TRAIN)
    pixels = jax.random.randint(key, (NUM_TRAIN, 32, 32, 3), 0, 256, jnp.uint8)
    labels = jnp.arange(NUM_TRAIN, dtype=jnp.int32) % 10
    order = jnp.arange(NUM_TRAIN, dtype=jnp.int32)
    arguments = replicate((Epoch(pixels, labels, order, key, 10), start), mesh)
    recipe = make_recipe(config, NUM_TRAIN)
    steps = make_steps(recipe, mesh, grad_accum=grad_accum, remat=remat)
    began = time.perf_counter()
    memory = planned_memory(steps, *arguments, 1)
    return steps, arguments, memory, time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--bn-group", type=int, default=0)
    parser.add_argument("--grad-accum", default="1", help="such as 1,2,4,8")
    parser.add_argument("--remat", default="0,1", help="0, 1 or both")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-time", action="store_true", help="compile only")
    args = parser.parse_args()
    pieces = [int(x) for x in args.grad_accum.split(",")]
    remats = [bool(int(x)) for x in args.remat.split(",")]
    network = {"arch": args.arch, "width": args.width}
    cases = {}
    for grad_accum, remat in itertools.product(pieces, remats):
        case = network | {
            "batch_size": args.batch_size,
            "bn_group": args.bn_group,
            "grad_accum": grad_accum,
            "remat": remat,
        }
        steps, (epoch, state), memory, seconds = prepare(**case)
        case["xla_flags"] = os.environ.get("XLA_FLAGS", "")
        row = {"planned_bytes": memory, "compile_seconds": seconds}
        cases[len(cases)] = [case, row, steps, epoch, state, []]
        print(
            f"{case}: {(memory or 0) / 1e9:.3f} GB, compiled in {seconds:.0f} s",
            flush=True,
        )
    if not args.no_time:
        # Alternating, so that a machine that slows down slows down all.
        for _ in range(args.repeats + 1):
            for entry in cases.values():
                *_, steps, epoch, state, times = entry
                began = time.perf_counter()
                state = steps(epoch, state, 1)
                jax.block_until_ready(eqx.filter(state, eqx.is_array))
                times.append(time.perf_counter() - began)
                entry[4] = state
    rows = []
    for case, row, *_, times in cases.values():
        if times:
            # The first one warms up.
            row["step_seconds"] = times[1:]
            row["images_per_s"] = args.batch_size / statistics.median(times[1:])
            print(f"{case}: {row['images_per_s']:.1f} images/s")
        rows.append({"case": case, **row})
    name = f"step_memory_{jax.default_backend()}"
    earlier = read(name).get("rows", [])
    new = [row["case"] for row in rows]
    store(name, {"rows": [r for r in earlier if r["case"] not in new] + rows})


if __name__ == "__main__":
    main()
