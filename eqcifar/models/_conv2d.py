import math
from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from ._layers import normal


class Conv2d(eqx.Module):
    """A convolution that is quick on CPUs.

    The same function as `eqx.nn.Conv2d` with the same weights. By default an odd kernel
    keeps the size.
    """

    weight: Float[Array, "out_channels in_channels kernel_size kernel_size"]
    bias: Float[Array, " out_channels"] | None
    stride: int = eqx.field(static=True)
    padding: int | Literal["SAME"] = eqx.field(static=True)
    channels_last: bool = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | Literal["SAME"] | None = None,
        use_bias: bool = False,
        _channels_last: bool = False,
        key: PRNGKeyArray,
    ):
        """Start from He-normal weights, of variance 2 / fan-in, and biases of zero.

        He et al., 2015, https://arxiv.org/abs/1502.01852

        **Arguments:**

        - `in_channels`, `out_channels`: The channels before and after.
        - `kernel_size`: 3 or 1, and 2 once in this package.
        - `stride`: Of both spatial axes.
        - `padding`: Zeros beyond each edge; by default, `kernel_size // 2`. "SAME" is
            as few as give sizes divided by the stride, rounded up: an odd number of
            them has one more at the end.
        - `use_bias`: Whether a number of each channel is added.
        - `key`: For the initial weights.
        """
        shape = out_channels, in_channels, kernel_size, kernel_size
        self.weight = normal(key, shape, math.sqrt(2 / math.prod(shape[1:])))
        self.bias = jnp.zeros(out_channels) if use_bias else None
        self.stride = stride
        self.padding = kernel_size // 2 if padding is None else padding
        self.channels_last = _channels_last

    def __call__(
        self,
        x: Float[Array, "in_channels height width"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "out_channels new_height new_width"]:
        """Convolve one image.

        **Arguments:**

        - `x`: One image, in the dtype of the weights.
        - `key`: Ignored; every layer takes one.

        **Returns:**

        The image of new channels, its sides divided by the stride.
        """
        del key
        x = x if self.channels_last else jnp.moveaxis(x, 0, -1)
        y = _convolve(_materialise(x), self.weight, self.stride, self.padding)
        y = _materialise(y if self.bias is None else y + self.bias[None, None])
        return y if self.channels_last else jnp.moveaxis(y, -1, 0)


# Of images with the channels last, as this package's networks have them inside: so the
# kernels of CPUs and GPUs want them.
conv2d = partial(Conv2d, _channels_last=True)


def _materialise(x: Array) -> Array:
    """Keep XLA on CPUs from computing `x` anew wherever it is used.

    It would fuse normalisation and activation into the transposed copies that a
    gradient reads, at a stride of whole images. `parallel.compiler_options` keep the
    barrier until operations are fused.
    """
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


def _convolve(
    x: Array, weight: Array, stride: int, padding: int | Literal["SAME"]
) -> Array:
    keeps_size = weight.shape[-1] == 3 and stride == 1 and padding in (1, "SAME")
    if keeps_size and max(x.shape[:2]) <= 2:
        return _multiply_patches(x, weight)
    return lax.conv_general_dilated(
        x[None],
        weight,
        (stride, stride),
        padding if isinstance(padding, str) else [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
    )[0]


def _multiply_patches(x: Array, weight: Array) -> Array:
    """Convolve a very small image, for which XLA on CPUs takes 100 times as long."""
    height, width, _ = x.shape
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    patches = [
        padded[i : i + height, j : j + width] for i in range(3) for j in range(3)
    ]
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])
    return jnp.concatenate(patches, -1) @ matrix
