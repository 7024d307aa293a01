import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from eqcifar.errors import UsageError

_Layer = TypeVar("_Layer", eqx.nn.Conv2d, eqx.nn.Linear)


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    use_bias: bool = False,
    key: PRNGKeyArray,
) -> eqx.nn.Conv2d:
    """Make a convolution that keeps the size (at stride 1), with He-normal weights.

    Weights have variance 2 / fan-in, biases are zero.
    He et al., 2015, https://arxiv.org/abs/1502.01852

    **Arguments:**

    - `kernel_size`: An odd number, 3 or 1 in this package.
    - `stride`: Of both spatial axes.
    """
    layer = _shapes(
        eqx.nn.Conv2d,
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        use_bias=use_bias,
        dtype=jnp.result_type(float),
    )
    return _initialise(layer, 2 / (in_channels * kernel_size**2), key)


def hidden_linear(
    in_features: int, out_features: int, *, key: PRNGKeyArray
) -> eqx.nn.Linear:
    """Make a linear layer to go before a ReLU: weight variance 2 / fan-in, bias 0.

    He et al., 2015, https://arxiv.org/abs/1502.01852
    """
    layer = _shapes(
        eqx.nn.Linear, in_features, out_features, dtype=jnp.result_type(float)
    )
    return _initialise(layer, 2 / in_features, key)


def classifier(
    in_features: int, num_classes: int, *, key: PRNGKeyArray
) -> eqx.nn.Linear:
    """Make the last linear layer: weight variance 1 / fan-in, bias 0."""
    layer = _shapes(
        eqx.nn.Linear, in_features, num_classes, dtype=jnp.result_type(float)
    )
    return _initialise(layer, 1 / in_features, key)


@lru_cache(maxsize=1024)
def _shapes(layer: Callable[..., _Layer], *sizes: int, **options: Any) -> _Layer:
    """A layer without values: Equinox's own would be thrown away.

    Kept, for a deep network has many alike, and tracing each takes a millisecond.
    """
    return eqx.filter_eval_shape(
        lambda: layer(*sizes, **options, key=jax.random.key(0))
    )


def _initialise(layer: _Layer, variance: float, key: PRNGKeyArray) -> _Layer:
    shape, dtype = layer.weight.shape, layer.weight.dtype
    # A flat draw has the same values and compiles in a quarter of the time.
    flat = jax.random.normal(key, (math.prod(shape),), dtype)
    weight = (math.sqrt(variance) * flat).reshape(shape)
    layer = eqx.tree_at(lambda x: x.weight, layer, weight)
    if layer.bias is None:
        return layer
    bias = jnp.zeros(layer.bias.shape, layer.bias.dtype)
    return eqx.tree_at(lambda x: x.bias, layer, bias)


def max_pool(
    x: Float[Array, "channels height width"],
) -> Float[Array, "channels height//2 width//2"]:
    """Take the maximum of each 2x2 square; an odd last row or column is dropped.

    Written with selections. The gradient of a windowed maximum is a
    select-and-scatter, slow and perhaps different from run to run on a GPU. That of
    `jnp.max` looks for the maximum by equality: when XLA computes the input once more
    in the backward pass and rounds it otherwise, nothing is equal and the gradient is
    lost or NaN. Of equal values the first has the gradient, as in PyTorch.

    **Raises:**

    A `UsageError` when there is no 2x2 square left to pool.
    """
    channels, height, width = x.shape
    if min(height, width) < 2:
        raise UsageError(
            f"cannot pool {height}x{width} features: the images are too small for "
            "this architecture; VGG needs 32x32 or more, a ResNet takes any size"
        )
    height, width = height // 2, width // 2
    x = x[:, : 2 * height, : 2 * width].reshape(channels, height, 2, width, 2)
    x = _larger(x[..., 0], x[..., 1])
    return _larger(x[:, :, 0], x[:, :, 1])


def _larger(a: Array, b: Array) -> Array:
    return jnp.where((b > a) | jnp.isnan(b), b, a)


def mean_pool(x: Float[Array, "channels height width"]) -> Float[Array, " channels"]:
    """Average each channel over space."""
    return jnp.mean(x, axis=(1, 2))


def scale_channels(channels: int, width: float) -> int:
    """Multiply a number of channels, rounding to the nearest integer.

    **Raises:**

    A `UsageError` when nothing would be left.
    """
    scaled = round(channels * width) if math.isfinite(width) else 0
    if scaled < 1:
        raise UsageError(
            f"width {width:g} leaves {channels} channels with {scaled}: give a width "
            f"above {0.5 / channels:g}"
        )
    return scaled
