"""The measures that are rises of the loss away from the network."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, PyTree

from eqcifar.errors import UsageError

from ._draw import CUTS, over_halves
from ._estimate import Estimate
from ._examples import Examples, Rows, piece
from ._lanczos import DEPTH
from ._landscape import as_direction, filter_normalised, landscape
from ._radius import CLIMBS, average_sharpness, rises_at, sam_sharpness
from ._task import Measured, Task

RADIUS, ADAPTIVE_RADIUS, REACH = 0.05, 0.5, 0.5
# On the axis of a line, and on each of a plane's: a pass forward over the images each.
POINTS = {1: 21, 2: 31}


def radius(task: Task) -> Measured:
    """The rise of the loss at a finite radius, worst and on average."""
    values: dict[str, Estimate] = {}
    probes = max(task.probes, 5)
    total = 2 * (probes + 1)
    for step, adaptive in enumerate((False, True)):
        distance = ADAPTIVE_RADIUS if adaptive else RADIUS
        end = "_adaptive" if adaptive else ""
        names = [f"half{cut}{side}" for cut in range(CLIMBS) for side in (0, 1)]
        passes = {k: task.passes(f"sam{end}-{k}") for k in ("whole", *names)}
        values[f"sam{end}"] = sam_sharpness(
            task.network,
            task.examples,
            task.loss,
            radius=distance,
            adaptive=adaptive,
            target=task.target,
            done=passes,
        )
        before = step * (probes + 1) + 1
        task.count(before, total)
        values[f"average{end}"] = average_sharpness(
            task.network,
            task.examples,
            task.loss,
            radius=distance,
            adaptive=adaptive,
            probes=probes,
            target=task.target,
            key=task.key,
            done=task.passes(f"average{end}"),
            report=lambda m, _, before=before: task.count(before + m, total),
        )
    return Measured(values)


def line(task: Task, name: str, count: int, eigen: bool) -> Measured:
    """The loss on a line, or with a `count` of 2 on a plane, through the network.

    Along filter-normalised random directions, or the unit eigenvectors of the largest
    eigenvalues of the Hessian.
    """
    points = POINTS[count]
    before, work = 0, points**count
    total = work
    if eigen:
        if task.network.size < count:
            raise UsageError("a plane takes two parameters at least; there is one")
        before = task.steps_to(task.pairs)
        total += before + task.is_sample * 2 * CUTS * DEPTH * count
        leading = task.leading("hess", "eigen-hess", task.pairs, 0, total)
        vectors = leading.vectors[:count]
        directions = [as_direction(task.network, vector) for vector in vectors]
    else:
        vectors, keys = None, jax.random.split(task.key, count)
        directions = [filter_normalised(task.network, key) for key in keys]
    found = landscape(
        task.network,
        task.examples,
        directions,
        task.loss,
        reach=REACH,
        points=points,
        target=task.target,
        done=task.passes(name),
        report=lambda done, _: task.count(before + done, total),
    )
    rises = piece(
        task.passes(f"{name}-ends"),
        0,
        lambda: {"rise": _rises(task, task.examples, directions)},
    )["rise"]
    halves = None
    if vectors is not None and task.is_sample:
        halves = _halves(task, name, vectors, before + work, total)
    rise = task.fitted(float(rises.mean()), rises, halves)
    by_batch = task.network.batch_statistics
    curves = {
        "steps": found.steps.tolist(),
        "loss": found.loss.tolist(),
        "error": found.error.tolist(),
        "accuracy": found.accuracy.tolist(),
        "normalised by": "each batch" if by_batch else "running statistics",
    }
    table = "landscape" if name == "line" else name
    rise = dataclasses.replace(rise, matvecs=found.loss.size)
    return Measured({name: rise}, {}, {table: curves})


def _rises(task: Task, examples: Examples, directions: Sequence[PyTree]) -> np.ndarray:
    return rises_at(task.network, examples, task.loss, directions, REACH)


def _halves(
    task: Task, name: str, vectors: Array, before: int, total: int
) -> np.ndarray:
    """The mean rise of each half of the images along eigenvectors of its own."""
    numbers = itertools.count()

    def find(half: Examples, rows: Rows) -> np.ndarray:
        start = before + next(numbers) * DEPTH * len(vectors)
        own = task.nearby(half, "hess", vectors, rows, start, total)[1]
        directions = [as_direction(task.network, vector) for vector in own]
        return np.asarray(_rises(task, half, directions).mean())

    return over_halves(task.examples, find, lambda end: task.passes(f"{name}-{end}"))
