"""The path norm."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task


def _compute(task: "Task") -> "Measured":
    """`eqcifar.models.log_path_norm`."""
    from ..models import log_path_norm
    from ..sharpness import Estimate, Measured

    model = task.network.model
    shape = task.examples.batch(0).images.shape[1:]
    value = log_path_norm(model, task.network.state, shape)
    return Measured({"log_path": Estimate(value)})


PATH = Measure(
    "path",
    {
        "log_path": Column(
            "log of the sum over paths from pixels to logits of their squared weights' "
            "products, BatchNorm's scales among them"
        )
    },
    _compute,
    whole=True,
    most_images=0,
)
