"""What tr H and tr NTK of a split cost here, in PyHessian and in curvlinops.

The same trained network, images, machine and process, in which nothing else computes.
Ours goes over the whole split. A probe of the others is timed on a sample in turns with
ours, and multiplied up to the split and to the number of probes that its measured
variance asks for to reach the standard error that ours had.

    python -m benchmarks.sharpness_cost RUN DATASET
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from eqcifar import models, sharpness
from eqcifar.parallel import jit
from eqcifar.sharpness import Examples, Network

from .peers import torch_sharpness as peers
from .records import store
from .sharpness_measures import first, load, record

KEY = jax.random.key(7)


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    begin = time.perf_counter()
    found = jax.block_until_ready(work())
    return time.perf_counter() - begin, found


def in_turns(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Median seconds of each, after one call to compile, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            seconds, _ = clock(work)
            if turn > 0:
                times[name].append(seconds)
        print(f"turn {turn}", flush=True)
    return {
        name: {"seconds": statistics.median(rows), "all": rows}
        for name, rows in times.items()
    }


@jit
def _gradient(network: Network, loss: Any, images: Any, labels: Any) -> Any:
    def total(params):
        return jnp.mean(jax.vmap(loss)(network(params, images), labels))

    return jax.grad(total)(network.params)


def gradient(network: Network, examples: Examples) -> Any:
    """The gradient of the mean loss, batch by batch."""
    ce = sharpness.get_loss("ce")
    return [_gradient(network, ce, b.images, b.labels) for b in examples.batches()]


def one_probe(network: Network, examples: Examples, loss: str, probes: int = 1) -> Any:
    """The exact path with one random output vector an example."""
    return sharpness.output_traces(
        network, examples, loss, probes=probes, scaled=("plain",), key=KEY
    )


def agree(network: Network, examples: Examples, peer: Any) -> dict[str, float]:
    """Check the answer before the clock: the same probes, float32."""
    apply = sharpness.operator(network, examples, "ce")
    ours = [float(v @ np.asarray(apply(jnp.asarray(v)))) for v in peer.signs(2, 3)]
    theirs = peer.pyhessian_traces(2, 3)
    apart = float(np.max(np.abs(np.subtract(ours, theirs) / np.asarray(theirs))))
    assert apart < 1e-2
    return {"largest relative difference of v'Hv, 2 probes, float32": apart}


def passes(arch: str, batch: int, repeats: int) -> dict[str, Any]:
    """Seconds of a gradient and of a jvp of a jvp; weights do not matter for them."""
    network = Network(*models.create(arch, key=KEY))
    images = jax.random.normal(KEY, (batch, 3, 32, 32))
    labels = jnp.arange(batch) % 10
    tangent = jax.tree.map(jnp.sign, network.params)
    ce = sharpness.get_loss("ce")
    return in_turns(
        {
            "gradient": lambda: _gradient(network, ce, images, labels),
            "jvp of jvp": lambda: sharpness.quadratic_forms(
                network, ce, images, labels, tangent
            ),
        },
        repeats,
    )


def main() -> None:
    """Measure and store, part by part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("dataset")
    parser.add_argument("--data-name", default="CIFAR-10 (JPEG copy)")
    parser.add_argument("--sample", type=int, default=256)
    parser.add_argument("--pilot", type=int, default=256)
    parser.add_argument("--probes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    network, splits, loaded = load(args.run, args.dataset)
    config = loaded.config
    if (config.arch, config.width) != ("vgg11", 0.25):
        parser.error("the peers' network is a vgg11 of width 0.25")
    test = splits["test"]
    few = first(test, args.sample)
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
    result: dict[str, Any] = {
        "data": args.data_name,
        "network": f"{config.arch}, width {config.width:g}, BatchNorm, trained",
        "parameters": network.size,
        "split": len(test),
        "sample": args.sample,
        "load_average": os.getloadavg(),
        "check": agree(network, few, peer),
    }
    store("sharpness_cost", result)
    ce = sharpness.get_loss("ce")
    tangent = jax.tree.map(jnp.sign, network.params)

    def forms():
        return [
            sharpness.quadratic_forms(network, ce, b.images, b.labels, tangent)
            for b in few.batches()
        ]

    result["a probe on the sample"] = in_turns(
        {
            "eqcifar gradient": lambda: gradient(network, few),
            "eqcifar jvp of jvp": forms,
            "eqcifar exact path, 1 output vector": lambda: one_probe(
                network, few, "ce"
            ),
            "torch gradient": lambda: peer.gradient(),
            "PyHessian, 1 probe": lambda: peer.pyhessian_traces(1, 0),
            "curvlinops Hessian, 2 products": lambda: peer.hutchinson("hess", 2),
            "curvlinops GGN (mse), 2 products": lambda: squared.hutchinson("ggn", 2),
        },
        args.repeats,
    )
    store("sharpness_cost", result)

    result["whole split"] = {}
    for loss, name in (("ce", "tr H"), ("mse", "tr NTK")):
        seconds, found = clock(lambda loss=loss: one_probe(network, test, loss))
        again = one_probe(network, first(test, args.pilot), loss, probes=2)
        within = again.table().var(axis=1, ddof=1).mean()
        result["whole split"][name] = {
            "seconds": seconds,
            "estimate": record(found.estimate()),
            "standard_error": float(np.sqrt(within / len(test))),
            "standard_error_from": f"2 vectors on {args.pilot} images",
        }
        store("sharpness_cost", result)

    pilot = first(test, args.pilot)
    rows = sharpness.probe_traces(
        network, pilot, "ce", probes=args.probes, fresh=False, key=KEY
    )
    result["variance of a random direction"] = {
        name: vars(sharpness.variances(rows.values[name]))
        for name in ("hess", "ggn", "ntk")
    } | {"images": args.pilot, "probes": args.probes}
    store("sharpness_cost", result)

    seconds, (value, spread) = clock(lambda: peer.hutch_plus_plus("hess", 8))
    result["Hutch++"] = {
        "columns": 8,
        "products": 24,
        "seconds": seconds,
        "trace of the sample": value,
        "standard deviation of a term": spread,
    }
    result["passes"] = {
        "batch": 64,
        "networks": {
            arch: passes(arch, 64, args.repeats)
            for arch in ("resnet18", "vgg", "wrn16-4", "resnet20")
        },
    }
    store("sharpness_cost", result)
    seconds, exact = clock(
        lambda: sharpness.output_traces(network, few, "ce", scaled=("plain",))
    )
    result["exact, C vectors, on the sample"] = {
        "seconds": seconds,
        "value": exact.estimate().value,
    }
    store("sharpness_cost", result)


if __name__ == "__main__":
    main()
