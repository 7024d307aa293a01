"""How far training has moved the weights."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task


def _compute(task: "Task") -> "Measured":
    """Of folded layers; Nagarajan and Kolter (2019), https://arxiv.org/abs/1901.01672."""
    import numpy as np

    from ..models import folded_weights
    from ..sharpness import Estimate, Measured

    model = task.network.model
    before = folded_weights(*task.start())
    after = folded_weights(model, task.network.state)
    moves = [matrix - before[name] for name, matrix in after.items()]
    values = {
        "distance": sum((move**2).sum() for move in moves),
        "spectral_distance": sum(np.linalg.norm(move, 2) ** 2 for move in moves),
    }
    return Measured({name: Estimate(float(x)) for name, x in values.items()})


_OF = "of each layer, as in frobenius, from where training started"
DISTANCE = Measure(
    "distance",
    {
        "distance": Column(f"sum of squared Frobenius norms of the move {_OF}"),
        "spectral_distance": Column(f"sum of squared spectral norms of the move {_OF}"),
    },
    _compute,
    whole=True,
    most_images=0,
)
