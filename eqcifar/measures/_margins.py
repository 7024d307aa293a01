"""How far logits are from another class."""

import math
from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task

_SHARE = 0.1


def _compute(task: "Task") -> "Measured":
    """The mean margin and a low quantile; Bartlett et al. (2017), arXiv:1706.08498."""
    import dataclasses

    import numpy as np

    from ..sharpness import Estimate, Measured, margins, page

    with page("margins"):
        found = np.sort(margins(task.network, task.examples))
    count, population = len(found), task.examples.population
    mean = task.mean_of(found)
    # The quantile's error is that of the share below it, over the density there: from
    # the order statistics one such error to each side.
    left = 1.0 - count / population if task.target == "split" else 1.0
    spread = math.sqrt(_SHARE * (1 - _SHARE) / count * left)
    ends = np.quantile(found, np.clip([_SHARE - spread, _SHARE + spread], 0, 1))
    value = float(np.quantile(found, _SHARE))
    quantile = Estimate(
        value,
        data_error=float(ends[1] - ends[0]) / 2,
        target=task.target,
        examples=count,
        matvecs=mean.matvecs,
    )
    # Of networks that err on more than that share, there is none.
    inverse = value**-2 if value > 0 else math.nan
    slope = 2 * abs(value) ** -3 if value > 0 else math.nan
    values = {
        "margin": mean,
        "margin_10": quantile,
        "inverse_margin": dataclasses.replace(
            quantile, value=inverse, data_error=slope * quantile.data_error
        ),
    }
    return Measured(values)


MARGINS = Measure(
    "margins",
    {
        "margin": Column("mean of the label's logit less the largest other", "logits"),
        "margin_10": Column(f"its {100 * _SHARE:g} % quantile over images", "logits"),
        "inverse_margin": Column(
            "1 / margin_10², less for wider margins; none where margin_10 is not "
            "positive",
            "1 / logits²",
        ),
    },
    _compute,
    whole=True,
    per_image=True,
)
