"""The largest eigenvalues of the Hessian and of its Gauss-Newton part."""

from typing import TYPE_CHECKING

from ..errors import UsageError
from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Kind, Measured, Task


def _compute(task: "Task") -> "Measured":
    """The largest eigenvalues of the Hessian and of the GGN, with residual bounds."""
    from ..sharpness import Estimate, Measured

    values: dict[str, Estimate] = {}
    bounds: dict[str, float] = {}
    kinds: dict[Kind, str] = {"hess": "lambda", "ggn": "lambda_ggn"}
    if task.top > task.network.size:
        raise UsageError(
            f"The network has {task.network.size} parameters, so there are no "
            f"{task.top} eigenvalues: take a smaller --top."
        )
    count, work = task.pairs, task.work(task.pairs)
    for index, (kind, name) in enumerate(kinds.items()):
        at, total = index * work, len(kinds) * work
        found = task.leading(kind, f"eigen-{kind}", count, at, total)
        at += task.work_to(count)
        drawn = task.of_draw(kind, f"eigen-{kind}", found, at, total)
        for k in range(task.top):
            values[f"{name}_{k + 1}"] = drawn[k]
            bounds[f"{name}_{k + 1}"] = float(found.bounds[k])
    return Measured(values, bounds)


_UNIT = "{loss} / parameter²"
EIGENVALUES = Measure(
    "eigenvalues",
    {
        "lambda_k": Column(
            "eigenvalue of the Hessian of the mean {loss} loss, largest first", _UNIT
        ),
        "lambda_ggn_k": Column(
            "eigenvalue of its Gauss-Newton part ({loss}), largest first", _UNIT
        ),
    },
    _compute,
)
