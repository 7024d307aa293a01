"""Traces of the NTK, summed over the classes and averaged."""

from functools import partial
from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task


def _compute(task: "Task", mean: bool = False) -> "Measured":
    """Traces of the NTK and its scale-invariant forms: the sum over classes.

    Or their `mean` over classes, from the same pass and under other names.
    """
    from ..sharpness import Measured

    outputs = task.outputs()
    names = {"tr_ntk": "plain", "tr_ctk": "theta", "tr_ntk_filter": "filter"}
    end = "_mean" if mean else ""
    factor = 1 / len(outputs.label_counts) if mean else 1.0
    return Measured(
        {
            f"{k}{end}": outputs.estimate(kind, target=task.target).scale(factor)
            for k, kind in names.items()
        }
    )


_UNITS = {
    "tr_ntk": "logits² / parameter²",
    "tr_ctk": "logits²",
    "tr_ntk_filter": "logits²",
}
_MEANINGS = {
    "tr_ntk": "trace of the NTK: mean over images of ||df/dtheta||^2, all classes",
    "tr_ctk": "tr_ntk times theta^2 (connectivity tangent kernel)",
    "tr_ntk_filter": "tr_ntk times the filters' mean squares",
}
NTK = Measure(
    "ntk",
    {name: Column(meaning, _UNITS[name]) for name, meaning in _MEANINGS.items()},
    _compute,
    output="ntk",
    per_image=True,
    usual=True,
)
NTK_MEAN = Measure(
    "ntk_mean",
    {
        f"{name}_mean": Column(f"{name} divided by the number of classes", unit)
        for name, unit in _UNITS.items()
    },
    partial(_compute, mean=True),
    output="ntk",
    per_image=True,
)
