"""Every sharpness measure of one trained network, on train and test images.

Each part is stored as soon as it is known, and a second call goes on with the rest.

    python -m benchmarks.sharpness_measures RUN DATASET --data-name "..."
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from eqcifar import data, sharpness
from eqcifar.runs import load_model
from eqcifar.sharpness import Estimate, Examples, Network

from .records import RESULTS, store

NAME = "sharpness_measures"
SEED = 0


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
    """An estimate as JSON with its 95 % interval."""
    if not isinstance(value, Estimate):
        return {"value": value}
    low, high = value.interval()
    fields = dataclasses.asdict(value)
    known = {k: v for k, v in fields.items() if v not in (float("inf"),)}
    return known | {"low": low, "high": high}


class Kept:
    """The parts found so far, in the file of results."""

    def __init__(self, head: dict[str, Any], only: str):
        self.head, self.only = head, only

    @property
    def parts(self) -> dict[str, Any]:
        """Read anew, since other processes may measure other parts."""
        path = RESULTS / f"{NAME}.json"
        return json.loads(path.read_text())["parts"] if path.exists() else {}

    def part(self, name: str, find: Callable[[], dict[str, Any]], **about: Any) -> None:
        """Compute a part and store it, unless it is there."""
        if name in self.parts or not name.startswith(self.only):
            return
        wall, cpu = time.perf_counter(), time.process_time()
        values = {k: v if k == "table" else record(v) for k, v in find().items()}
        cost = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }
        parts = self.parts | {name: about | cost | {"values": values}}
        store(NAME, self.head | {"parts": parts})
        print(f"{name}: {cost['cpu_seconds']:.0f} s of the processor", flush=True)


def first(examples: Examples, count: int) -> Examples:
    """The first so many of a random order."""
    return examples.take(examples.order[:count])


def traces(network: Network, examples: Examples, loss: str, probes: int) -> dict:
    """The trace of the Hessian under three scalings, and how many examples it takes."""
    found = sharpness.hessian_trace(
        network, examples, loss, probes=probes, key=jax.random.key(SEED)
    )
    assert found.outputs is not None
    assert found.method == "exact"
    values: dict[str, Any] = {
        "tr_hess": found.hess,
        "tr_ggn": found.ggn,
        "tr_resid": found.resid,
        "tr_ggn_theta": found.outputs.estimate("theta"),
        "tr_ggn_filter": found.outputs.estimate("filter"),
        "population": found.outputs.estimate(target="population"),
        "bend": found.bend,
    }
    table = found.outputs.table()
    parts = sharpness.variances(table)
    values["table"] = {"variances": dataclasses.asdict(parts)}
    for rtol in (0.05, 0.02):
        for fresh in ("example", "exact"):
            plan = sharpness.plan(parts, rtol, examples.population, fresh=fresh)
            values["table"][f"{fresh} {rtol:g}"] = dataclasses.asdict(plan)
    return values


def unit(network: Network, examples: Examples, probes: int) -> dict[str, Estimate]:
    """NTK traces for logits of unit standard deviation."""
    model = eqx.combine(network.params, network.static)
    scaled = Network(model, network.state, unit_logits=True)
    found = sharpness.output_traces(
        scaled, examples, "mse", probes=probes, key=jax.random.key(SEED)
    )
    return {
        "tr_ntk_unit": found.estimate(),
        "tr_ctk_unit": found.estimate("theta"),
        "tr_ntk_unit_filter": found.estimate("filter"),
    }


def radius(network: Network, examples: Examples, loss: str) -> dict[str, Any]:
    """Rises of the loss at a radius, at these examples."""
    values: dict[str, Any] = {}
    for end, adaptive, size in (("", False, 0.05), ("_adaptive", True, 0.5)):
        values[f"sam{end}"] = sharpness.sam_sharpness(
            network, examples, loss, radius=size, adaptive=adaptive
        )
        values[f"average{end}"] = sharpness.average_sharpness(
            network,
            examples,
            loss,
            radius=size,
            adaptive=adaptive,
            probes=5,
            key=jax.random.key(SEED),
        )
    found = sharpness.loss_at(network, examples, loss, network.params)
    values["loss"] = float(found["loss"].mean())
    values["accuracy"] = float(found["right"].mean())
    return values


def spectrum(network: Network, examples: Examples, loss: str) -> dict[str, Any]:
    """Largest eigenvalues of the Hessian and GGN with their bounds."""
    values: dict[str, Any] = {}
    for kind in ("hess", "ggn"):
        found = sharpness.eigenpairs(
            sharpness.operator(network, examples, loss, kind),
            steps=12,
            rtol=1e-2,
            key=jax.random.key(SEED),
        )
        values[f"lmax_{kind}"] = float(found.values[0])
        values[f"lmax_{kind}_bound"] = float(found.bounds[0])
        values[f"lmax_{kind}_products"] = float(found.matvecs)
    return values


def frobenius(network: Network, examples: Examples, loss: str) -> dict[str, Estimate]:
    """Squared Frobenius norms of the Hessian and GGN."""
    return {
        f"frobenius2_{kind}": sharpness.frobenius(
            sharpness.operator(network, examples, loss, kind),
            probes=6,
            key=jax.random.key(SEED),
        )
        for kind in ("hess", "ggn")
    }


def compare(network: Network, train: Examples, test: Examples, loss: str) -> dict:
    """Trace ratio and cosines between the splits, halves as the control."""
    found = sharpness.compare(
        network, train, test, loss, probes=6, key=jax.random.key(SEED)
    )
    values = {f"ratio_{k}": v for k, v in found.trace_ratio.items()}
    for kind, cosines in found.cosine.items():
        values |= {f"cosine_{kind}_{k}": v for k, v in cosines.items()}
    return values


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("dataset")
    parser.add_argument("--data-name", default="CIFAR-10 (JPEG copy)")
    parser.add_argument("--only", default="", help="how the names of parts begin")
    parser.add_argument("--traces", type=int, default=1000)
    parser.add_argument("--unit", type=int, default=500)
    parser.add_argument("--radius", type=int, default=500)
    parser.add_argument("--matvecs", type=int, default=128)
    args = parser.parse_args()
    network, splits, loaded = load(args.run, args.dataset)
    config = loaded.config.to_dict() | {"dataset": args.data_name}
    sizes = {name: examples.population for name, examples in splits.items()}
    head = {"data": args.data_name, "images": sizes, "config": config}
    kept = Kept(head | {"parameters": network.size, "networks": 1}, args.only)

    for loss in ("ce", "mse"):
        for name, examples in splits.items():
            few = first(examples, args.traces)
            kept.part(
                f"traces {loss} {name}",
                lambda few=few, loss=loss: traces(network, few, loss, 2),
                examples=args.traces,
            )
    for name, examples in splits.items():
        few = first(examples, args.unit)
        kept.part(
            f"unit {name}", lambda few=few: unit(network, few, 2), examples=args.unit
        )
    for loss in ("ce", "mse"):
        for name, examples in splits.items():
            few = first(examples, args.radius)
            kept.part(
                f"radius {loss} {name}",
                lambda few=few, loss=loss: radius(network, few, loss),
                examples=args.radius,
            )
        few = {name: first(x, args.matvecs) for name, x in splits.items()}
        kept.part(
            f"compare {loss}",
            lambda few=few, loss=loss: compare(
                network, few["train"], few["test"], loss
            ),
            examples=args.matvecs,
        )
        for name, chosen in few.items():
            kept.part(
                f"spectrum {loss} {name}",
                lambda x=chosen, loss=loss: spectrum(network, x, loss),
                examples=args.matvecs,
            )
            kept.part(
                f"frobenius {loss} {name}",
                lambda x=chosen, loss=loss: frobenius(network, x, loss),
                examples=args.matvecs,
            )


if __name__ == "__main__":
    main()
