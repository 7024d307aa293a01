from collections.abc import Hashable, Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox.nn import State, StateIndex
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from eqcifar.errors import UsageError

_Statistics = tuple[Float[Array, " channels"], Float[Array, " channels"]]


class BatchNorm(eqx.Module):
    r"""Normalises each channel by its mean and variance over batch and space.

    $$y = \gamma\,\frac{x - \mathbb{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} + \beta$$

    In training mode the expectations run over the `vmap` axis called `axis_name` and
    all spatial axes, and the running statistics $r$ move by
    $r \leftarrow m\,r + (1 - m)\,\mathrm{batch}$ from mean 0 and variance 1. In
    inference mode the running statistics are used and left alone.

    In training and in inference mode this is the function of PyTorch's `BatchNorm2d`,
    and all derivatives are its own. One thing differs: the running variance is the
    biased one (divided by $n$), as the batch's is and as in Flax, where PyTorch keeps
    $n / (n - 1)$ times as much. Everything is computed in float32 at the least,
    whatever the dtype of `x`.

    `eqx.nn.BatchNorm` (Equinox 0.13.8) is another function. By default (`mode="ema"`)
    it normalises by the *running* statistics in training too, so that a batch leaves it
    with neither mean 0 nor variance 1: see its issues 659 and 955, in which networks
    for CIFAR-10 fall back to guessing. With `mode="batch"` training is PyTorch's, but
    the running variance starts from 1 and is divided by $1 - m^t$ after $t$ steps as if
    it had started from 0, so that it is too large by $m^t / (1 - m^t)$ in evaluation:
    by half after 10 steps with $m = 0.9$.

    Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167
    """

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    running_mean: StateIndex[Float[Array, " channels"]]
    running_var: StateIndex[Float[Array, " channels"]]
    # A leaf, not static, since `eqx.nn.inference_mode` replaces leaves.
    inference: bool
    momentum: float = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    axis_name: Hashable = eqx.field(static=True)
    channels_last: bool = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        *,
        momentum: float = 0.9,
        eps: float = 1e-5,
        axis_name: Hashable = "batch",
        inference: bool = False,
        _channels_last: bool = False,
    ):
        """Start from weight 1, bias 0, running mean 0 and running variance 1.

        **Arguments:**

        - `size`: The number of channels.
        - `momentum`: The share of the running statistics that a step keeps, so
            PyTorch's `momentum` is one minus this.
        - `eps`: Added to the variance.
        - `axis_name`: The name of the `vmap` axis of the batch, or a tuple of names.
        - `inference`: Whether to use the running statistics. Toggled by
            `eqx.nn.inference_mode`.
        """
        # The default dtype: float32, or float64 in JAX's 64-bit mode.
        self.weight = jnp.ones(size)
        self.bias = jnp.zeros(size)
        self.running_mean = StateIndex(jnp.zeros(size))
        self.running_var = StateIndex(jnp.ones(size))
        self.inference = inference
        self.momentum = momentum
        self.eps = eps
        self.axis_name = axis_name
        # No axis is to be chosen: of a wrong one, equal sizes would tell nothing.
        self.channels_last = _channels_last

    def __call__(
        self,
        x: Float[Array, "..."],
        state: State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "..."], State]:
        """Normalise one example, and in training mode move the running statistics.

        **Arguments:**

        - `x`: One example; the channels are its first axis, as in `Conv2d` and
            `eqx.nn.Conv2d`, and all others are spatial.
        - `state`: Holds the running statistics.
        - `key`: Ignored; every layer takes one.

        **Returns:**

        The normalised example in the dtype of `x`, and the new state.

        **Raises:**

        A `UsageError` when there are not as many channels as it was made for, and in
        training mode when no `vmap` axis has the right name.
        """
        del key
        axis = -1 if self.channels_last else 0
        if x.ndim == 0 or x.shape[axis] != len(self.weight):
            raise UsageError(
                f"BatchNorm of {len(self.weight)} channels cannot take {x.shape}: one "
                "example's channels come first, as those of models.Conv2d and "
                "eqx.nn.Conv2d do"
            )
        running = state.get(self.running_mean), state.get(self.running_var)
        y, running = _normalise(
            x,
            self.weight,
            self.bias,
            running,
            inference=bool(self.inference),
            momentum=self.momentum,
            eps=self.eps,
            axis_name=self.axis_name,
            channel_axis=axis,
        )
        if not self.inference:
            state = state.set(self.running_mean, running[0])
            state = state.set(self.running_var, running[1])
        return y, state


# Of images with the channels last, as `conv2d` has them.
batch_norm = partial(BatchNorm, _channels_last=True)


# A function of its own, so that layers of one shape are traced once.
@partial(
    jax.jit,
    static_argnames=("inference", "momentum", "eps", "axis_name", "channel_axis"),
)
def _normalise(
    x: Float[Array, "..."],
    weight: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    running: _Statistics,
    *,
    inference: bool,
    momentum: float,
    eps: float,
    axis_name: Hashable,
    channel_axis: int,
) -> tuple[Float[Array, "..."], _Statistics]:
    """The normalised example, and the running mean and variance after it."""
    spatial = [axis for axis in range(x.ndim) if axis != channel_axis % x.ndim]
    dtype = x.dtype if jnp.finfo(x.dtype).bits > 32 else jnp.dtype(jnp.float32)
    wide = x.astype(dtype)
    if inference:
        about, var = (each.astype(dtype) for each in running)
        centred, left = wide - jnp.expand_dims(about, spatial), jnp.zeros_like(about)
    else:
        # About a value that the channel has: E[x^2] - E[x]^2 alone cancels when the
        # mean is large. Any constant does, so it has no part in derivatives.
        middle = lax.stop_gradient(_middle(wide, spatial))
        (about,) = _batch_mean([middle], axis_name)
        centred = wide - jnp.expand_dims(about, spatial)
        moments = [jnp.mean(each, spatial) for each in (centred, jnp.square(centred))]
        left, square = _batch_mean(moments, axis_name)
        var = square - jnp.square(left)
        mean = about + left
        running = _move(running[0], mean, momentum), _move(running[1], var, momentum)
    scale = lax.rsqrt(var + eps) * weight.astype(dtype)
    offset = bias.astype(dtype) - left * scale
    scale, offset = (jnp.expand_dims(each, spatial) for each in (scale, offset))
    return (centred * scale + offset).astype(x.dtype), running


def _batch_mean(values: list[Array], axis_name: Hashable) -> list[Array]:
    try:
        return lax.pmean(values, axis_name)
    except NameError as error:
        raise UsageError(
            "BatchNorm in training mode needs a batch: call the model under "
            f"`jax.vmap(..., axis_name={axis_name!r}, in_axes=(0, None), "
            "out_axes=(0, None))`, or on a single example after "
            "`eqx.nn.inference_mode(model)`"
        ) from error


def _move(running: Array, new: Array, momentum: float) -> Array:
    kept = momentum * running
    return kept + (1 - momentum) * new.astype(kept.dtype)


def _middle(x: Array, spatial: Sequence[int]) -> Array:
    for axis in reversed(spatial):
        x = lax.index_in_dim(x, x.shape[axis] // 2, axis, keepdims=False)
    return x
