"""The rise of the loss at a finite distance, worst and on average."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task

_RADIUS, _ADAPTIVE = 0.05, 0.5
# About the half passes that `slope_of` and `sam_sharpness` take and tell of.
_SLOPE, _CLIMB = 9, 15


def _compute(task: "Task") -> "Measured":
    """The rise of the loss at a finite radius, worst and on average."""
    from ..sharpness import (
        Estimate,
        Measured,
        average_sharpness,
        page,
        sam_sharpness,
        slope_of,
    )

    values: dict[str, Estimate] = {}
    probes = max(task.probes, 5)
    each = _CLIMB + 4 * probes
    total = _SLOPE + 2 * each
    with page("slope", total=total):
        slope = slope_of(task.network, task.examples, task.loss)
    for step, adaptive in enumerate((False, True)):
        distance = _ADAPTIVE if adaptive else _RADIUS
        end, before = "_adaptive" if adaptive else "", _SLOPE + step * each
        with page(f"sam{end}", before=before, total=total):
            values[f"sam{end}"] = sam_sharpness(
                task.network,
                task.examples,
                task.loss,
                radius=distance,
                adaptive=adaptive,
                target=task.target,
                slope=slope,
            )
        before += _CLIMB
        with page(f"average{end}", before=before, total=total):
            values[f"average{end}"] = average_sharpness(
                task.network,
                task.examples,
                task.loss,
                radius=distance,
                adaptive=adaptive,
                probes=probes,
                target=task.target,
                losses=slope.losses,
                key=task.key,
            )
    return Measured(values)


_COLUMNS = {
    "sam": f"worst-case rise of the {{loss}} loss at distance {_RADIUS:g}, one step",
    "sam_adaptive": f"sam ({{loss}}) at ||delta / T|| = {_ADAPTIVE:g}: T = |theta| + "
    "0.01 for weights, 1 for biases and normalisation (ASAM)",
    "average": f"mean rise of the {{loss}} loss at distance {_RADIUS:g}, all "
    "directions",
    "average_adaptive": f"average ({{loss}}) at ||delta / T|| = {_ADAPTIVE:g}, T as in "
    "sam_adaptive",
}
RADIUS = Measure(
    "radius",
    {name: Column(meaning, "{loss}") for name, meaning in _COLUMNS.items()},
    _compute,
    usual=True,
)
