"""What tr H and tr NTK of a split cost here, in PyHessian and in curvlinops.

The same trained network, images, machine and process, in which nothing else computes.
Ours goes over the whole split. A probe of the others is timed on a sample in turns with
ours, and multiplied up to the split and to the number of probes that its measured
variance asks for to reach the standard error that ours had.

    python -m benchmarks sharpness_cost RUN DATASET
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from eqcifar import sharpness
from eqcifar.sharpness import Examples, Network

from .peers import torch_sharpness as peers
from .shared import alternate, parser, row, store
from .sharpness_agreement import first, load

KEY = jax.random.key(7)


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    begin = time.perf_counter()
    found = jax.block_until_ready(work())
    return time.perf_counter() - begin, found


def one_probe(network: Network, examples: Examples, loss: str, probes: int = 1) -> Any:
    """The exact path with one random output vector an example."""
    return sharpness.output_traces(
        network, examples, loss, probes=probes, scaled=("plain",), key=KEY
    )


def agree(network: Network, examples: Examples, peer: Any) -> float:
    """Check the answer before the clock: the same probes, float32."""
    apply = sharpness.operator(network, examples, "ce")
    ours = [float(v @ np.asarray(apply(jnp.asarray(v)))) for v in peer.signs(2, 3)]
    theirs = peer.pyhessian_traces(2, 3)
    apart = float(np.max(np.abs(np.subtract(ours, theirs) / np.asarray(theirs))))
    assert apart < 1e-2, apart
    return apart


def main(argv: list[str]):
    """Measure and store, part by part."""
    options = parser(__doc__)
    options.add_argument("run", help="of a vgg11 of width 0.25")
    options.add_argument("dataset")
    options.add_argument("--data-name", default="CIFAR-10 (JPEG copy)")
    options.add_argument("--sample", type=int, default=256)
    options.add_argument("--pilot", type=int, default=256)
    options.add_argument("--probes", type=int, default=20)
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args(argv)
    torch.manual_seed(0)
    network, splits, loaded = load(args.run, args.dataset)
    config = loaded.config
    if (config.arch, config.width) != ("vgg11", 0.25):
        options.error("the peers' network is a vgg11 of width 0.25")
    test = splits["test"]
    few, pilot = first(test, args.sample), first(test, args.pilot)
    batches = [
        (torch.tensor(np.asarray(b.images)), torch.tensor(np.asarray(b.labels)).long())
        for b in few.batches()
    ]
    model = peers.fill(
        peers.vgg11(),
        [np.asarray(x) for x in jax.tree.leaves(network.params)],
        [np.asarray(x) for x in jax.tree.leaves(network.state)],
    )
    peer, squared = peers.Peer(model, batches, "ce"), peers.Peer(model, batches, "mse")
    about = {"data": args.data_name, "images": len(test)}
    about["v'Hv of 2 probes apart from PyHessian"] = agree(network, few, peer)
    seconds = alternate(
        {
            "PyHessian": lambda: peer.pyhessian_traces(1, 0),
            "Hessian": lambda: peer.hutchinson("hess", 2),
            "GGN": lambda: squared.hutchinson("ggn", 2),
        },
        args.rounds,
    )
    grow = len(test) / args.sample
    each = {name: grow * float(np.median(s)) for name, s in seconds.items()}
    rows = sharpness.probe_traces(
        network, pilot, "ce", probes=args.probes, fresh=False, key=KEY
    )
    plus, term = peer.hutch_plus_plus("hess", 8)
    for goal, loss, kind in (("tr H", "ce", "hess"), ("tr NTK", "mse", "ntk")):
        one_probe(network, few, loss)  # compiles
        taken, found = clock(lambda loss=loss: one_probe(network, test, loss))
        again = one_probe(network, pilot, loss, probes=2)
        within = again.table().var(axis=1, ddof=1).mean()
        wanted = math.sqrt(within / len(test)) / found.estimate().value
        parts = sharpness.variances(rows.values[kind])
        needed = (parts.probe + parts.mixed / len(test)) / wanted**2
        if kind == "ntk":
            costs = {
                "PyHessian, on the mse loss": (needed, each["PyHessian"]),
                "curvlinops Hutchinson on the GGN": (needed, each["GGN"] / 2),
            }
        else:
            costs = {
                "PyHessian": (needed, each["PyHessian"]),
                "curvlinops Hutchinson": (needed, each["Hessian"] / 2),
                "curvlinops Hutch++": (
                    16 + (term / plus / wanted) ** 2,
                    each["Hessian"] / 2,
                ),
            }
        store(
            "sharpness_cost",
            [
                row(f"{goal}: eqcifar", "relative standard error", wanted),
                *products_and_time(f"{goal}: eqcifar", 1, taken, taken),
                *(
                    each_row
                    for name, (count, one) in costs.items()
                    for each_row in products_and_time(
                        f"{goal}: {name}", count, count * one, taken
                    )
                ),
            ],
            **about,
        )


def products_and_time(what: str, count: float, seconds: float, ours: float):
    """Products an image, time, and that as a multiple of ours."""
    return [
        row(what, "products an image", count),
        row(what, "time, s", seconds),
        row(what, "times ours", seconds / ours),
    ]
