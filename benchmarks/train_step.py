"""The training step and evaluation here: speed, share of the peak, memory.

Of architectures by batch sizes by precisions, on the device that JAX finds. On a GPU a
call takes a whole epoch of 50,000 images, as training does there.

    python -m benchmarks.train_step --archs resnet18,resnet20 --batch 128,1000
    python -m benchmarks.train_step --precision bf16 --batch 1000       # on a GPU
    python -m benchmarks.train_step --tiny                              # seconds
"""

import argparse
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import jax

from .records import store
from .speed import Case, spread
from .subject import Subject, flops_per_image, peak_flops


def measure(case: Case, repeats: int) -> dict:
    peak = peak_flops(case.precision)
    subject = Subject(case)
    compiled = subject.compile()
    # The first is not counted: it touches new memory.
    subject.train(1)
    subject.predict(1)
    train = [subject.train(1) for _ in range(repeats)]
    predict = [subject.predict(1) for _ in range(repeats)]
    images = case.batch * case.steps
    rate = spread([images / seconds for seconds in train])
    return {
        "arch": case.arch,
        "batch": case.batch,
        "precision": case.precision,
        "steps_per_call": case.steps,
        "images_per_second": rate,
        "peak_flops": peak,
        "share_of_peak": rate["median"] * flops_per_image(case.arch) / peak,
        "predict_images_per_second": spread([case.evaluated / s for s in predict]),
        **compiled,
        **subject.about(),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archs", default="resnet18,resnet20,wrn16-4,vgg")
    parser.add_argument("--batch", default="128")
    parser.add_argument("--precision", default="f32", help="f32, bf16 or f32,bf16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a GPU's way, made small")
    args = parser.parse_args()
    if args.tiny:
        args.archs, args.batch, args.precision = "resnet8", "16", "f32,bf16"
    # Each in a process of its own: the most memory it had is its own.
    pool = ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    )
    backend = pool.submit(jax.default_backend).result()
    on_cpu = backend == "cpu"
    rows = []
    for arch, batch, precision in itertools.product(
        args.archs.split(","),
        map(int, args.batch.split(",")),
        args.precision.split(","),
    ):
        images = 64 if args.tiny else max(1024, batch) if on_cpu else 50_000
        steps = images // batch if args.tiny or not on_cpu else 1
        evaluated = 64 if args.tiny else 1000 if on_cpu else 10_000
        case = Case(arch, batch, precision, images, evaluated, steps)
        row = pool.submit(measure, case, args.repeats).result()
        rows.append(row)
        print(
            "{arch:10} batch {batch:4} {precision}  {median:8.1f} images/s  "
            "{share_of_peak:5.1%} of the peak  predict {predict:8.1f}  trace "
            "{trace_seconds:.1f} s  compile {compile_seconds:.1f} s  temporary "
            "{temporary:.2f} GB".format(
                **row,
                median=row["images_per_second"]["median"],
                predict=row["predict_images_per_second"]["median"],
                temporary=row["temporary_bytes"] / 1e9,
            ),
            flush=True,
        )
    pool.shutdown()
    if not args.tiny:
        load = os.getloadavg()[0]
        store(f"train_step_{backend}", {"load_average": load, "rows": rows})


if __name__ == "__main__":
    main()
