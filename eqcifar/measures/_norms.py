"""Norms of weights, which know of no image."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task


def _compute(task: "Task") -> "Measured":
    """Of folded layers; Jiang et al. (2019), https://arxiv.org/abs/1912.02178, C.3."""
    import numpy as np

    from ..models import folded_weights
    from ..sharpness import Estimate, Measured

    model = task.network.model
    weights = folded_weights(model, task.network.state).values()
    frobenius = np.array([(matrix**2).sum() for matrix in weights])
    spectral = np.array([np.linalg.norm(matrix, 2) ** 2 for matrix in weights])
    values = {
        "frobenius": frobenius.sum(),
        "log_frobenius": np.log(frobenius).sum(),
        "log_spectral": np.log(spectral).sum(),
        "stable_rank": (frobenius / spectral).sum(),
    }
    return Measured({name: Estimate(float(x)) for name, x in values.items()})


_OF = "of each convolution, a row a channel, and linear layer, with its BatchNorm"
NORMS = Measure(
    "norms",
    {
        "frobenius": Column(f"sum over layers of ||W||_F² {_OF}", "parameter²"),
        "log_frobenius": Column(f"sum over layers of log ||W||_F² {_OF}"),
        "log_spectral": Column(f"sum over layers of log ||W||_2² {_OF}"),
        "stable_rank": Column(f"sum over layers of ||W||_F² / ||W||_2² {_OF}"),
    },
    _compute,
    whole=True,
    most_images=0,
)
