"""The Fisher-Rao norm."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task


def _compute(task: "Task") -> "Measured":
    """Liang et al. (2019), https://arxiv.org/abs/1711.01530, definition 2."""
    from ..sharpness import Measured, estimate_mean, page, radial_slopes

    with page("fisher_rao"):
        slopes = radial_slopes(task.network, task.examples, task.loss)
    found = estimate_mean(
        slopes[:, None] ** 2,
        exact=True,
        population=task.examples.population,
        target=task.target,
    )
    return Measured({"fisher_rao": found})


FISHER_RAO = Measure(
    "fisher_rao",
    {
        "fisher_rao": Column(
            "squared Fisher-Rao norm, mean of (theta . d{loss}/dtheta)²",
            "({loss})²",
        )
    },
    _compute,
    per_image=True,
)
