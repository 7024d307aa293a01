"""The path norm."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task


def _compute(task: "Task") -> "Measured":
    """Neyshabur et al. (2015), https://arxiv.org/abs/1506.02617, in one pass."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ..models import path_network
    from ..sharpness import Estimate, Measured

    model = eqx.combine(task.network.params, task.network.static)
    shape = task.examples.batch(0).images.shape[1:]
    # Products over many layers leave the range of float32.
    with jax.enable_x64(True):
        network, state = jax.tree.map(
            lambda leaf: (
                jnp.asarray(leaf, jnp.float64)
                if jnp.issubdtype(getattr(leaf, "dtype", int), jnp.floating)
                else leaf
            ),
            path_network(model, task.network.state),
        )
        logits, _ = network(jnp.ones(shape, jnp.float64), state)
        value = float(np.log(np.asarray(logits).sum()))
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
    most_images=0,
)
