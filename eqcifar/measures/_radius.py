"""The rise of the loss at a finite distance, worst and on average."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task

_RADIUS, _ADAPTIVE = 0.05, 0.5


def _compute(task: "Task") -> "Measured":
    """The rise of the loss at a finite radius, worst and on average."""
    from ..sharpness import (
        Estimate,
        Measured,
        average_sharpness,
        page,
        sam_sharpness,
        tell,
    )

    values: dict[str, Estimate] = {}
    probes = max(task.probes, 5)
    total = 2 * (probes + 1)
    for step, adaptive in enumerate((False, True)):
        distance = _ADAPTIVE if adaptive else _RADIUS
        end = "_adaptive" if adaptive else ""
        with page(f"sam{end}"):
            values[f"sam{end}"] = sam_sharpness(
                task.network,
                task.examples,
                task.loss,
                radius=distance,
                adaptive=adaptive,
                target=task.target,
            )
        before = step * (probes + 1) + 1
        tell(before, total)
        with page(f"average{end}", before=before, total=total):
            values[f"average{end}"] = average_sharpness(
                task.network,
                task.examples,
                task.loss,
                radius=distance,
                adaptive=adaptive,
                probes=probes,
                target=task.target,
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
