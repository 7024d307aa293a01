"""The worst rise of the loss of groups of images, by several steps of ascent."""

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


def _compute(task: "Task") -> "Measured":
    """`eqcifar.sharpness.m_sharpness` in four balls."""
    from ..sharpness import Measured, m_sharpness, page

    values = {}
    for number, (name, (ball, adaptive, radius)) in enumerate(_BALLS.items()):
        count = len(task.examples)
        with page(name, before=number * count, total=len(_BALLS) * count):
            values[name] = m_sharpness(
                task.network,
                task.examples,
                task.loss,
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
