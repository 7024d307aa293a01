"""Relative flatness of the classifier."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task


def _compute(task: "Task") -> "Measured":
    """Petzka et al. (2021), https://arxiv.org/abs/2001.00939, definition 3."""
    from ..sharpness import Measured, page, relative_flatness

    with page("flatness"):
        terms = relative_flatness(task.network, task.examples, task.loss)
    return Measured({"relative_flatness": task.mean_of(terms)})


FLATNESS = Measure(
    "flatness",
    {
        "relative_flatness": Column(
            "sum over rows s, s' of the classifier's w_s . w_s' tr H_ss' ({loss})",
            "{loss}",
        )
    },
    _compute,
    whole=True,
    per_image=True,
)
