"""The worst rise of the loss of groups of images, by several steps of ascent."""

from functools import partial
from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Ball, Measured, Task

_IMAGES, _STEPS = 128, 20
# By column: the ball, whether it is relative to weights, and its radius.
_BALLS: "dict[str, tuple[Ball, bool, float]]" = {
    "worst": ("l2", False, 0.05),
    "worst_adaptive": ("l2", True, 0.5),
    "worst_max": ("linf", False, 1e-4),
    "worst_max_adaptive": ("linf", True, 2e-3),
}


def _compute(task: "Task", end: str = "") -> "Measured":
    """`eqcifar.sharpness.m_sharpness` in four balls."""
    from ..sharpness import Measured, m_sharpness, of_unit_logits, page

    values, loss = {}, of_unit_logits(task.loss) if end else task.loss
    for number, (name, (ball, adaptive, radius)) in enumerate(_BALLS.items()):
        count = len(task.examples)
        with page(f"{name}{end}", before=number * count, total=len(_BALLS) * count):
            values[f"{name}{end}"] = m_sharpness(
                task.network,
                task.examples,
                loss,
                radius=radius,
                m=_IMAGES,
                ball=ball,
                adaptive=adaptive,
                steps=_STEPS,
                target=task.target,
            )
    return Measured(values)


def _meaning(ball: str, adaptive: bool, radius: float) -> str:
    distance = "delta / T" if adaptive else "delta"
    norm = {"l2": f"||{distance}||", "linf": f"max |{distance}|"}[ball]
    return (
        f"worst rise of the {{loss}} loss of groups of {_IMAGES} images at {norm} <= "
        f"{radius:g}, {_STEPS} steps"
    )


M_SHARPNESS = Measure(
    "m_sharpness",
    {name: Column(_meaning(*ball), "{loss}") for name, ball in _BALLS.items()},
    _compute,
    per_image=True,
)
_OF_UNIT = ", of logits divided by their standard deviation"
M_SHARPNESS_UNIT = Measure(
    "m_sharpness_unit",
    {
        f"{name}_unit": Column(f"{_meaning(*ball)}{_OF_UNIT}", "{loss}")
        for name, ball in _BALLS.items()
    },
    partial(_compute, end="_unit"),
    per_image=True,
)
