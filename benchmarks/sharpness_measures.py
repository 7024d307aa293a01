"""Every sharpness measure of one trained network, on train and test images.

Each part is stored as soon as it is known. A second call goes on with the rest, and
inside the part where the first one was stopped or killed.

    python -m benchmarks.sharpness_measures RUN DATASET --data-name "..."
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from eqcifar import data, measurements, sharpness
from eqcifar.measurements._unfinished import Unfinished
from eqcifar.runs import load_model
from eqcifar.sharpness import Estimate, Examples, Network, Rows

from .records import RESULTS, store

NAME = "sharpness_measures"
SEED = 0
LOSSES = "ce", "mse"
BY_PRODUCTS = "eigenvalues", "eigenline", "hutch++", "xtrace", "xnystrace"

# What a part finds: numbers by name, and under `table` anything.
Values = dict[str, Any]
Tick = Callable[..., None]


def load(run: str, dataset: str) -> tuple[Network, dict[str, Examples], Any]:
    """The network and both splits in one fixed random order."""
    loaded = load_model(run)
    config = loaded.config
    images = data.load(dataset)
    splits = {"train": images.train, "test": images.test}

    def prepare(x):
        return data.normalise(x, config.mean, config.std)

    examples = {
        name: Examples(split.images, split.labels, prepare).sample(len(split), SEED)
        for name, split in splits.items()
    }
    return Network(loaded.model, loaded.state), examples, loaded


def record(value: Estimate | float) -> dict[str, Any]:
    """An estimate as JSON with its 95 % interval; without what is not finite."""
    if not isinstance(value, Estimate):
        return {"value": value}
    low, high = value.interval()
    fields = dataclasses.asdict(value) | {"low": low, "high": high}
    return {k: v for k, v in fields.items() if isinstance(v, str) or math.isfinite(v)}


def first(examples: Examples, count: int) -> Examples:
    """The first so many of a random order."""
    return examples.take(examples.order[:count])


class Kept:
    """The parts found so far in the file of results, and the pieces of the next."""

    def __init__(self, head: dict[str, Any], only: str):
        self.head, self.only = head, only
        self.path = RESULTS / f"{NAME}.json"
        self.parts: dict[str, Any] = {}
        text = json.dumps(head, sort_keys=True)
        self.pieces = Unfinished(
            self.path, hashlib.sha256(text.encode()).hexdigest(), print
        )
        if self.path.exists():
            before = json.loads(self.path.read_text())
            if all(before.get(k) == v for k, v in json.loads(text).items()):
                self.parts = before["parts"]
            else:
                print("The results there are of something else: beginning anew.")

    def part(self, name: str, find: Callable[[dict[str, Rows], Tick], Values]) -> None:
        """Compute a part and store it, unless it is there."""
        if name in self.parts or not name.startswith(self.only):
            return
        wall, cpu = time.perf_counter(), time.process_time()
        with self.pieces.keeping(name.replace(" ", "-")) as (rows, save):
            found = find(rows, lambda *_: save())
        values = {k: v if k == "table" else record(v) for k, v in found.items()}
        cost = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }
        self.parts[name] = cost | {"values": values}
        store(NAME, self.head | {"parts": self.parts})
        print(f"{name}: {cost['cpu_seconds']:.0f} s of the processor", flush=True)


def traces(
    network: Network, examples: Examples, loss: str, probes: int, rows: Any, tick: Tick
) -> Values:
    """The trace of the Hessian under three scalings, and how many examples it takes."""
    found = sharpness.hessian_trace(
        network,
        examples,
        loss,
        probes=probes,
        key=jax.random.key(SEED),
        done=rows,
        report=tick,
    )
    assert found.outputs is not None
    assert found.method == "exact"
    values: Values = {
        "tr_hess": found.hess,
        "tr_ggn": found.ggn,
        "tr_resid": found.resid,
        "tr_ggn_theta": found.outputs.estimate("theta"),
        "tr_ggn_filter": found.outputs.estimate("filter"),
        "population": found.outputs.estimate(target="population"),
    }
    parts = sharpness.variances(found.outputs.table())
    values["table"] = {"variances": dataclasses.asdict(parts)}
    for rtol in (0.05, 0.02):
        for fresh in ("example", "exact"):
            plan = sharpness.plan(parts, rtol, examples.population, fresh=fresh)
            values["table"][f"{fresh} {rtol:g}"] = dataclasses.asdict(plan)
    return values


def named(
    name: str,
    network: Network,
    examples: Examples,
    loss: str,
    probes: int,
    rows: Any,
    tick: Tick,
) -> Values:
    """A measure as `eqcifar sharpness` has it."""
    found = measurements.measure(
        network,
        examples,
        name,
        loss,
        probes=probes,
        key=jax.random.key(SEED),
        rows=rows,
        report=tick,
    )
    bounds = {f"{k}_bound": v for k, v in found.bounds.items()}
    if name == "radius":
        here = sharpness.loss_at(network, examples, loss, network.params)
        bounds |= {"loss": here["loss"].mean(), "accuracy": here["right"].mean()}
    return found.values | bounds


def frobenius(
    network: Network, examples: Examples, loss: str, probes: int, rows: Any, tick: Tick
) -> Values:
    """The squared Frobenius norms of H and GGN."""
    return {
        f"frobenius2_{kind}": sharpness.frobenius(
            sharpness.operator(network, examples, loss, kind).counted(tick, 0, probes),
            probes=probes,
            key=jax.random.key(SEED),
            done=rows.setdefault(f"frobenius_{kind}", {}),
        )
        for kind in ("hess", "ggn")
    }


def compare(
    network: Network,
    train: Examples,
    test: Examples,
    loss: str,
    probes: int,
    count: int,
    rows: Any,
    tick: Tick,
) -> Values:
    """Trace ratio, cosines and overlap of the splits, halves as the control."""
    found = sharpness.compare(
        network,
        train,
        test,
        loss,
        probes=probes,
        eigenvectors=count,
        key=jax.random.key(SEED),
        done=rows,
        report=tick,
    )
    values: Values = {f"ratio_{k}": v for k, v in found.trace_ratio.items()}
    for kind, cosines in found.cosine.items():
        values |= {f"cosine_{kind}_{k}": v for k, v in cosines.items()}
    return values | {f"overlap_{pair}": value for pair, value in found.overlap.items()}


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("run", help="the folder of a run, or its model.eqx")
    parser.add_argument("dataset", help="a folder or name, as for --dataset")
    parser.add_argument("--data-name", default="CIFAR-10 (JPEG copy)")
    parser.add_argument("--only", default="", help="how the names of parts begin")
    for name, default, what in (
        ("traces", 1000, "images a split for traces"),
        ("unit", 500, "images a split for traces at unit logits"),
        ("radius", 500, "images a split for rises of the loss"),
        ("products", 256, "images a split for eigenvalues, norms and comparisons"),
        ("probes", 2, "random vectors an image for traces"),
        ("directions", 8, "random directions for mean rises"),
        ("common", 12, "random vectors for norms, comparisons and products"),
        ("eigenvectors", 5, "compared; 0: none"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=what)
    args = parser.parse_args()
    network, splits, loaded = load(args.run, args.dataset)
    sizes = {name: examples.population for name, examples in splits.items()}
    weights = Path(args.run)
    weights = weights / "model.eqx" if weights.is_dir() else weights
    options = {
        k: v for k, v in vars(args).items() if k not in ("run", "dataset", "only")
    }
    kept = Kept(
        {
            "data": args.data_name,
            "images": sizes,
            "config": loaded.config.to_dict() | {"dataset": args.data_name},
            "network": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "parameters": network.size,
            "networks": 1,
            "options": options,
        },
        args.only,
    )
    few = {
        size: {name: first(x, vars(args)[size]) for name, x in splits.items()}
        for size in ("traces", "unit", "radius", "products")
    }
    bind = functools.partial
    for name in splits:
        for loss in LOSSES:
            on = few["traces"][name]
            kept.part(
                f"traces {loss} {name}", bind(traces, network, on, loss, args.probes)
            )
        on = few["unit"][name]
        kept.part(f"unit {name}", bind(named, "unit", network, on, "mse", args.probes))
        kept.part(f"gram {name}", bind(named, "gram", network, on, "mse", 0))
        on = few["radius"][name]
        for loss in LOSSES:
            for what, probes in (
                ("radius", args.directions),
                ("landscape", 0),
                ("plane", 0),
            ):
                kept.part(
                    f"{what} {loss} {name}",
                    bind(named, what, network, on, loss, probes),
                )
    for loss in LOSSES:
        train, test = few["products"].values()
        kept.part(
            f"compare {loss}",
            bind(compare, network, train, test, loss, args.common, args.eigenvectors),
        )
        for name, on in few["products"].items():
            for what in BY_PRODUCTS:
                kept.part(
                    f"{what} {loss} {name}",
                    bind(named, what, network, on, loss, args.common),
                )
            kept.part(
                f"frobenius {loss} {name}",
                bind(frobenius, network, on, loss, args.common),
            )
    if not args.only:
        kept.pieces.forget()


if __name__ == "__main__":
    main()
