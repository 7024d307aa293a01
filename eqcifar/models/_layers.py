import math
from functools import lru_cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from eqcifar.errors import UsageError


# One program for each shape.
@partial(jax.jit, static_argnames="shape")
def normal(
    key: PRNGKeyArray, shape: tuple[int, ...], std: Float[Array, ""] | float
) -> Float[Array, "..."]:
    """Draw an array of this standard deviation, in the default dtype."""
    # A flat draw has the same values and compiles in a quarter of the time.
    flat = jax.random.normal(key, (math.prod(shape),))
    # Else XLA merges two factors, and the last bit is another than without `jit`.
    return (std * jax.lax.optimization_barrier(flat)).reshape(shape)


def hidden_linear(
    in_features: int, out_features: int, *, key: PRNGKeyArray
) -> eqx.nn.Linear:
    """Make a linear layer to go before a ReLU: weight variance 2 / fan-in, bias 0.

    He et al., 2015, https://arxiv.org/abs/1502.01852
    """
    return _linear(in_features, out_features, 2 / in_features, key)


def classifier(
    in_features: int, num_classes: int, *, use_bias: bool = True, key: PRNGKeyArray
) -> eqx.nn.Linear:
    """Make the last linear layer: weight variance 1 / fan-in, bias 0."""
    return _linear(in_features, num_classes, 1 / in_features, key, use_bias=use_bias)


@lru_cache(maxsize=64)
def _shapes(
    in_features: int, out_features: int, use_bias: bool, dtype: jnp.dtype
) -> eqx.nn.Linear:
    """A layer without values: Equinox's own would be thrown away."""
    return eqx.filter_eval_shape(
        lambda: eqx.nn.Linear(
            in_features, out_features, use_bias, dtype=dtype, key=jax.random.key(0)
        )
    )


def _linear(
    in_features: int,
    out_features: int,
    variance: float,
    key: PRNGKeyArray,
    *,
    use_bias: bool = True,
) -> eqx.nn.Linear:
    layer = _shapes(in_features, out_features, use_bias, jnp.result_type(float))
    weight = normal(key, layer.weight.shape, math.sqrt(variance))
    layer = eqx.tree_at(lambda x: x.weight, layer, weight)
    if not use_bias:
        return layer
    bias = jnp.zeros((out_features,), layer.weight.dtype)
    return eqx.tree_at(lambda x: x.bias, layer, bias)


def check_image(image: Float[Array, "3 height width"], smallest: int):
    """Refuse an image of which pooling would leave nothing.

    **Raises:**

    A `UsageError` when a side has fewer pixels than `smallest`.
    """
    _, height, width = image.shape
    if min(height, width) < smallest:
        raise UsageError(
            f"images of {height}x{width} are too small: this network takes "
            f"{smallest}x{smallest} or more"
        )


def channels_last(
    image: Float[Array, "channels height width"],
) -> Float[Array, "height width channels"]:
    """Turn an image as models are given it into one as their layers want it."""
    return jnp.moveaxis(image, 0, -1)


def max_pool(
    x: Float[Array, "height width channels"],
) -> Float[Array, "height//2 width//2 channels"]:
    """Take the maximum of each 2x2 square; an odd last row or column is dropped.

    Written with selections. The gradient of a windowed maximum is a
    select-and-scatter, slow and perhaps different from run to run on a GPU. That of
    `jnp.max` looks for the maximum by equality: when XLA computes the input once more
    in the backward pass and rounds it otherwise, nothing is equal and the gradient is
    lost or NaN. Of equal values the first has the gradient, as in PyTorch.
    """
    height, width, channels = x.shape[0] // 2, x.shape[1] // 2, x.shape[2]
    x = x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, channels)
    x = _larger(x[:, :, :, 0], x[:, :, :, 1])
    return _larger(x[:, 0], x[:, 1])


def max_over_space(
    x: Float[Array, "height width channels"],
) -> Float[Array, " channels"]:
    """Take each channel's maximum over space, by selections as in [`max_pool`][]."""
    x = x.reshape(-1, x.shape[-1])
    while len(x) > 1:
        half = len(x) // 2
        pairs = _larger(x[:half], x[half : 2 * half])
        x = jnp.concatenate([pairs, x[2 * half :]])
    return x[0]


def _larger(a: Array, b: Array) -> Array:
    return jnp.where((b > a) | jnp.isnan(b), b, a)


def mean_pool(x: Float[Array, "height width channels"]) -> Float[Array, " channels"]:
    """Average each channel over space."""
    return jnp.mean(x, axis=(0, 1))


def mean_pool_squares(
    x: Float[Array, "height width channels"], size: int
) -> Float[Array, "height//{size} width//{size} channels"]:
    """Average each channel over squares of `size` pixels a side.

    **Raises:**

    A `UsageError` when squares do not fill the features.
    """
    height, width, channels = x.shape
    if height % size or width % size:
        raise UsageError(
            f"{height}x{width} features are not made of squares of {size}x{size}: this "
            "network takes images whose sides can be halved in each stage, such as "
            "32x32"
        )
    shape = height // size, size, width // size, size, channels
    return jnp.mean(x.reshape(shape), axis=(1, 3))


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
