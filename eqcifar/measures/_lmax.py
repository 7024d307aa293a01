"""The largest eigenvalue of the Hessian, the sharpness of much of the field."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task


def _compute(task: "Task") -> "Measured":
    """The largest eigenvalue of the Hessian."""
    from ..sharpness import Measured

    total = task.work(1)
    found = task.leading("hess", "lmax", 1, 0, total)
    (value,) = task.of_draw("hess", "lmax", found, task.work_to(1), total)
    return Measured({"lmax": value}, {"lmax": float(found.bounds[0])})


LMAX = Measure(
    "lmax",
    {
        "lmax": Column(
            "largest eigenvalue of the Hessian of the mean {loss} loss",
            "{loss} / parameter²",
        )
    },
    _compute,
    usual=True,
)
