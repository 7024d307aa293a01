"""Train CIFAR classifiers in JAX and Equinox, and measure how sharp their minima are.

The names are in the rooms: `eqcifar.models`, `eqcifar.data`, `eqcifar.training`,
`eqcifar.sharpness` and `eqcifar.runs`. Importing this package imports none of them;
`eqcifar.measure` is `eqcifar.measurements.measure`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .measurements import measure as measure

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # What reads results imports this package too, and needs no JAX.
    if name != "measure":
        raise AttributeError(f"module 'eqcifar' has no attribute {name!r}")
    from .measurements import measure

    return measure
