"""The spectrum of the NTK on a few examples."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..figures import add_legend, set_log
from ._measure import Column, Measure, Picture
from ._picture import line

if TYPE_CHECKING:
    from ..sharpness import Measured, Task

_EXAMPLES = 64


def _compute(task: "Task") -> "Measured":
    """The spectrum of the NTK on a few examples."""
    import jax
    import numpy as np

    from ..sharpness import Measured, ntk_estimates, ntk_gram, tell

    few = task.examples.take(task.examples.order[:_EXAMPLES])
    few = dataclasses.replace(few, place=jax.numpy.asarray)
    matrix = ntk_gram(task.network, few, memory=task.memory)
    tell(1, 1)
    estimates = ntk_estimates(
        matrix, len(few), population=few.population, target=task.target
    )
    values = np.linalg.eigvalsh(matrix)[::-1]
    return Measured(estimates, {}, {"gram": values.tolist()})


def _gram(figure: Any, tables: Mapping[str, Any], loss: str, found: Any):
    import numpy as np

    axes = figure.add_subplot()
    for split, values in tables.items():
        # What is smaller comes of rounding.
        least = max(values, default=0.0) * np.finfo(np.float32).eps
        positive = np.array(values)[np.array(values) > least]
        rank = np.arange(1, len(positive) + 1)
        # Single values, and no curve.
        style = line(split, linestyle="none", markersize=4, fillstyle="none")
        axes.plot(rank, positive, **style)
    set_log(axes, "x", "y")
    axes.set(xlabel="rank", ylabel="eigenvalue of the NTK\n(logits² / parameter²)")
    add_legend(figure)


GRAM = Measure(
    "gram",
    {
        "lmax_ntk": Column(
            f"largest eigenvalue of the NTK J J' / n, from {_EXAMPLES} images",
            "logits² / parameter²",
        ),
        "rank_ntk": Column("its effective rank, (tr K)^2 / ||K||_F^2"),
    },
    _compute,
    {"gram": Picture(_gram, of_loss=False, has_interval=lambda table: False)},
    per_image=True,
    most_images=_EXAMPLES,
)
