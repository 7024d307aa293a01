"""The Fisher-Rao norm."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task


def _compute(task: "Task") -> "Measured":
    """Liang et al. (2019), https://arxiv.org/abs/1711.01530, definition 2."""
    from ..sharpness import Measured, page, radial_slopes

    with page("fisher_rao"):
        slopes = radial_slopes(task.network, task.examples, task.loss)
    return Measured({"fisher_rao": task.mean_of(slopes**2)})


FISHER_RAO = Measure(
    "fisher_rao",
    {
        "fisher_rao": Column(
            "squared Fisher-Rao norm, mean of (theta . d{loss}/dtheta)²",
            "({loss})²",
        )
    },
    _compute,
    whole=True,
    per_image=True,
)
