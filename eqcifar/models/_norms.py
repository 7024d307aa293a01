import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox.nn import State
from jaxtyping import Array, Float

from ._batch_norm import BatchNorm, batch_norm


class GroupNorm(eqx.Module):
    r"""Normalises each example by mean and variance over space and groups of channels.

    Then each channel is multiplied by a weight, and a bias added, as by PyTorch's
    `GroupNorm`. With one group it is layer normalisation of images. Everything is
    computed in float32 at the least.

    Wu & He, 2018, https://arxiv.org/abs/1803.08494
    """

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    groups: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(self, size: int, groups: int, *, eps: float = 1e-5):
        """Start from weight 1 and bias 0.

        **Arguments:**

        - `size`: The number of channels.
        - `groups`: A divisor of it.
        - `eps`: Added to the variance.
        """
        self.weight, self.bias = jnp.ones(size), jnp.zeros(size)
        self.groups, self.eps = groups, eps

    def __call__(
        self, x: Float[Array, "*space channels"], state: State
    ) -> tuple[Float[Array, "*space channels"], State]:
        """Return the normalised example and the state as it was."""
        dtype = x.dtype if jnp.finfo(x.dtype).bits > 32 else jnp.dtype(jnp.float32)
        y = x.astype(dtype).reshape(-1, self.groups, x.shape[-1] // self.groups)
        y = y - jnp.mean(y, axis=(0, 2), keepdims=True)
        variance = jnp.mean(jnp.square(y), axis=(0, 2), keepdims=True)
        y = (y * jax.lax.rsqrt(variance + self.eps)).reshape(x.shape)
        y = y * self.weight.astype(dtype) + self.bias.astype(dtype)
        return y.astype(x.dtype), state


class NoNorm(eqx.Module):
    """Leaves its input as it is."""

    def __call__(
        self, x: Float[Array, "*space channels"], state: State
    ) -> tuple[Float[Array, "*space channels"], State]:
        """Return the input and the state."""
        return x, state


Norm = BatchNorm | GroupNorm | NoNorm

# In as many groups as the paper's 32 have in common with the channels.
NORMS: dict[str, Callable[[int], Norm]] = {
    "batch": batch_norm,
    "group": lambda size: GroupNorm(size, math.gcd(size, 32)),
    "layer": lambda size: GroupNorm(size, 1),
    "none": lambda size: NoNorm(),
}
