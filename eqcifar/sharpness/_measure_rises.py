"""The measures that are rises of the loss away from the network."""

import jax
import numpy as np

from eqcifar.errors import RunError

from ._estimate import Estimate
from ._landscape import as_direction, filter_normalised, landscape
from ._radius import average_sharpness, sam_sharpness
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
        rise = sam_sharpness(
            task.network,
            task.examples,
            task.loss,
            radius=distance,
            adaptive=adaptive,
            done=task.passes(f"sam{end}"),
        )
        values[f"sam{end}"] = task.single(rise, 1)
        before = step * (probes + 1) + 1
        task.count(before, total)
        values[f"average{end}"] = average_sharpness(
            task.network,
            task.examples,
            task.loss,
            radius=distance,
            adaptive=adaptive,
            probes=probes,
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
    before, total = 0, points**count
    if eigen:
        before = task.steps_to(task.pairs)
        total += before
        leading = task.leading("hess", "eigen-hess", task.pairs, 0, total)
        vectors = leading.vectors[:count]
        if len(vectors) < count:
            raise RunError("The Hessian has a single eigenvalue: no plane to show.")
        directions = [as_direction(task.network, vector) for vector in vectors]
    else:
        keys = jax.random.split(task.key, count)
        directions = [filter_normalised(task.network, key) for key in keys]
    found = landscape(
        task.network,
        task.examples,
        directions,
        task.loss,
        reach=REACH,
        points=points,
        done=task.passes(name),
        report=lambda done, _: task.count(before + done, total),
    )
    ends = found.loss[np.ix_(*[[0, -1]] * count)].mean()
    rise = float(ends - found.loss[(points // 2,) * count])
    by_batch = task.network.batch_statistics
    curves = {
        "steps": found.steps.tolist(),
        "loss": found.loss.tolist(),
        "accuracy": found.accuracy.tolist(),
        "normalised by": "each batch" if by_batch else "running statistics",
    }
    table = "landscape" if name == "line" else name
    return Measured({name: task.single(rise, found.loss.size)}, {}, {table: curves})
