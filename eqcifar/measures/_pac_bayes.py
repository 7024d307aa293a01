"""The noise on its parameters that a network's accuracy bears."""

import dataclasses
from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task

_MAGNITUDE, _DROP = 1e-3, 0.1


def _compute(task: "Task") -> "Measured":
    """1 / sigma² of `eqcifar.sharpness.pac_bayes_sigma`, plain and magnitude-aware."""
    from ..sharpness import Measured, pac_bayes_sigma, page

    values = {}
    for name, magnitude in (("pac_bayes", None), ("pac_bayes_mag", _MAGNITUDE)):
        with page(name):
            sigma = pac_bayes_sigma(
                task.network,
                task.examples,
                magnitude=magnitude,
                drop=_DROP,
                draws=max(task.probes, 5),
                target=task.target,
                key=task.key,
            )
        values[name.replace("pac_bayes", "pac_sigma")] = sigma
        slope = 2 * sigma.value**-3
        values[name] = dataclasses.replace(
            sigma,
            value=sigma.value**-2,
            probe_error=slope * sigma.probe_error,
            data_error=slope * sigma.data_error,
        )
    return Measured(values)


PAC_BAYES = Measure(
    "pac_bayes",
    {
        "pac_sigma": Column(
            f"deviation of noise on the parameters that costs {_DROP:g} of accuracy",
            "parameter",
        ),
        "pac_bayes": Column("1 / pac_sigma²", "1 / parameter²"),
        "pac_sigma_mag": Column(
            f"pac_sigma for noise of deviation sqrt(sigma² theta² + {_MAGNITUDE:g}²)"
        ),
        "pac_bayes_mag": Column("1 / pac_sigma_mag²"),
    },
    _compute,
    per_image=True,
)
