from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


# As PyTorch's of these names, GELU without approximation.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": _gelu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "silu": jax.nn.silu,
}
