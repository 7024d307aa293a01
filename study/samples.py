"""How many images and probes a number takes, against all images of the split.

python -m study.samples RESULTS [I/N]    # of a few networks of study/minima.toml

Adds to tables in study/results, or in another folder: --to FOLDER.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from eqcifar.config import SharpnessOptions
from eqcifar.losses import LOSSES
from eqcifar.measurements import MeasuredNetwork, compute_measure, open_network
from eqcifar.parallel import make_mesh
from eqcifar.sharpness import (
    Estimate,
    Examples,
    Stop,
    UnitLogits,
    Variances,
    estimate_mean,
    plan,
    shared_output_traces,
)
from eqcifar.storage import Run

from . import tables
from .minima import chosen_runs, run_fields
from .minima_rows import FIELDS

IMAGES = 50, 100, 200, 500, 1000
PROBES = 0, 1, 2, 4
# Of each image, from which those of a draw are taken.
KEPT = 16
DRAWS = 500
PILOT = 128
TOLERANCES = 0.2, 0.1
FITTED = "lmax", "radius"
FITTED_IMAGES = 125, 250, 500
FITTED_DRAWS = 8
ROOTS = {"tr_ggn": LOSSES["ce"], "tr_ntk": LOSSES["mse"], "tr_ntk_unit": UnitLogits()}


def main(argv: Sequence[str] | None = None):
    """Measure each of the chosen networks that has no rows yet."""
    parser = argparse.ArgumentParser(usage=__doc__, add_help=False)
    parser.add_argument("results")
    parser.add_argument("part", nargs="?", default="1/1")
    parser.add_argument("--to", type=Path)
    given = parser.parse_args(argv)
    if given.to is not None:
        tables.RESULTS = given.to
    at, parts = map(int, given.part.split("/"))
    for run in plain_runs(given.results)[at - 1 :: parts]:
        measure(run)


def plain_runs(root: str) -> list[Run]:
    """The first network of each architecture and data set, of right labels and SGD."""
    plain = {"sam": 0, "mixup": 0, "label_noise": 0, "seed": 0}
    first: dict[tuple[str, str], Run] = {}
    for run in chosen_runs(root, "1/1"):
        config = run.config()
        if all(config[name] == value for name, value in plain.items()):
            first.setdefault((config["dataset"], config["arch"]), run)
    return list(first.values())


def measure(run: Run):
    """Add the rows of a network to the tables, unless they are there."""
    fields = run_fields(run)
    kind = fields["dataset"], fields["arch"]
    there = tables.read_table("samples_fitted")
    if any((row["dataset"], row["arch"]) == kind for row in there):
        return
    trained = open_network(run.path)
    images = trained.examples("train", SharpnessOptions(samples=0), make_mesh(1))
    means, plans, parts = [], [], []
    for name, (exact, noisy) in per_image(trained, images).items():
        mean = float(exact.mean())
        of_images = float(exact.var(ddof=1)) / mean**2
        of_probes = float(noisy.var(axis=1, ddof=1).mean()) / mean**2
        about = fields | {"quantity": name, "images": len(exact), "truth": mean}
        parts.append(about | {"of_images": of_images, "of_probes": of_probes})
        means += [about | row for row in drawn_means(exact, noisy)]
        plans += [about | row for row in drawn_plans(exact)]
    fitted = [fields | row for row in drawn_maxima(trained, images)]
    key = *FIELDS, "quantity"
    tables.renew_table("samples_networks", parts, key)
    tables.renew_table("samples_means", means, (*key, "n", "probes"))
    tables.renew_table("samples_plans", plans, (*key, "rtol"))
    tables.renew_table("samples_fitted", fitted, (*key, "n", "draw"))
    print("samples of", run.path, flush=True)


def per_image(
    trained: MeasuredNetwork, images: Examples
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Traces of each image, exact and by `KEPT` probes."""
    network = trained.network(SharpnessOptions())
    key = jax.random.key(0)

    def traces(probes: int) -> dict[str, np.ndarray]:
        found = shared_output_traces(
            network, images, ROOTS, probes=probes, scaled=("plain",), key=key
        )
        return {name: each.table() for name, each in found.items()}

    exact, noisy = traces(0), traces(KEPT)
    return {name: (exact[name][:, 0], noisy[name]) for name in ROOTS}


def drawn_means(exact: np.ndarray, noisy: np.ndarray) -> Iterator[dict[str, float]]:
    """Estimates from draws of images and probes beside the truth."""
    size, truth = len(exact), float(exact.mean())
    for n in (n for n in IMAGES if n <= size / 2):
        for probes in PROBES:
            rng = np.random.default_rng((n, probes))

            def draw(n=n, probes=probes, rng=rng) -> Estimate:
                chosen = rng.choice(size, n, replace=False)
                if not probes:
                    table = exact[chosen, None]
                    return estimate_mean(table, exact=True, population=size)
                which = rng.permuted(np.tile(np.arange(KEPT), (n, 1)), axis=1)
                table = np.take_along_axis(noisy[chosen], which[:, :probes], axis=1)
                return estimate_mean(table, population=size)

            yield {"n": n, "probes": probes} | _summary(
                [draw() for _ in range(DRAWS)], truth
            )


def _summary(drawn: Sequence[Estimate], truth: float) -> dict[str, float]:
    values = np.array([each.value for each in drawn])
    errors = np.array([each.standard_error for each in drawn])
    ends = np.array([each.interval() for each in drawn])
    held = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    return {
        "draws": len(drawn),
        "mean": float(values.mean()),
        "spread": float(values.std(ddof=1)),
        "told": float(np.sqrt((errors**2).mean())),
        "held": int(held.sum()),
    }


def drawn_plans(exact: np.ndarray) -> Iterator[dict[str, float]]:
    """What `--rtol` stops at and `--how-many` plans, on the exact path."""
    size, truth = len(exact), float(exact.mean())
    for rtol in TOLERANCES:
        rng = np.random.default_rng(round(1 / rtol))
        stops, planned, near, near_planned = [], [], 0, 0
        for _ in range(DRAWS):
            order = rng.permutation(exact)
            n, value = stopped(order, rtol)
            stops.append(n)
            near += abs(value - truth) <= rtol * truth
            pilot = rng.choice(exact, min(PILOT, size), replace=False)
            spread = float(pilot.var(ddof=1) / pilot.mean() ** 2)
            parts = Variances(float(pilot.mean()), 0.0, spread, 0.0)
            n = plan(parts, rtol, size, fresh="exact").examples
            planned.append(n)
            mean = float(rng.choice(exact, n, replace=False).mean())
            near_planned += abs(mean - truth) <= rtol * truth
        yield {
            "rtol": rtol,
            "draws": DRAWS,
            "stopped_at": float(np.mean(stops)),
            "stopped_near": near,
            "planned": float(np.mean(planned)),
            "planned_near": near_planned,
        }


def stopped(order: np.ndarray, rtol: float) -> tuple[int, float]:
    """Where `--rtol` ends a pass over images in this order, and with what."""
    n = 50
    while n < len(order):
        sofar = estimate_mean(order[:n, None], exact=True, population=len(order))
        if Stop(rtol).narrow(sofar):
            break
        n = math.ceil(1.1 * n)
    n = min(n, len(order))
    return n, float(order[:n].mean())


def drawn_maxima(
    trained: MeasuredNetwork, images: Examples
) -> Iterator[dict[str, float]]:
    """λ_max and rises from draws of images, and from all of them: draw -1."""

    def rows(chosen: Examples, draw: int) -> Iterator[dict[str, float]]:
        for name in FITTED:
            found = compute_measure(
                trained.network(SharpnessOptions()),
                chosen,
                name,
                trained.loss(SharpnessOptions()),
                probes=2,
                key=jax.random.key(draw + 1),
            )
            for quantity, e in found.values.items():
                low, high = e.interval()
                row = {"quantity": quantity, "n": len(chosen), "draw": draw}
                yield row | {
                    "value": e.value,
                    "bias": e.bias,
                    "se": e.standard_error,
                    "low": low,
                    "high": high,
                }

    yield from rows(images, -1)
    for n in (n for n in FITTED_IMAGES if n <= len(images) / 2):
        for draw in range(FITTED_DRAWS):
            yield from rows(images.sample(n, draw), draw)


if __name__ == "__main__":
    main()
