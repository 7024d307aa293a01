import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from ._convolve_3x3 import convolve_3x3
from ._layers import normal


class Conv2d(eqx.Module):
    """A convolution made to be quick on CPUs.

    The same function as `eqx.nn.Conv2d` with the same weights, but of images with their
    channels last, as the kernels of CPUs and GPUs want them. By default an odd kernel
    keeps the size. Figures are in docs/speed.md.
    """

    weight: Float[Array, "out_channels in_channels kernel_size kernel_size"]
    bias: Float[Array, " out_channels"] | None
    stride: int = eqx.field(static=True)
    padding: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        use_bias: bool = False,
        key: PRNGKeyArray,
    ):
        """Start from He-normal weights, of variance 2 / fan-in, and biases of zero.

        He et al., 2015, https://arxiv.org/abs/1502.01852

        **Arguments:**

        - `in_channels`, `out_channels`: The channels before and after.
        - `kernel_size`: 3 or 1, and 2 once in this package.
        - `stride`: Of both spatial axes.
        - `padding`: Zeros beyond each edge; by default, `kernel_size // 2`.
        """
        shape = out_channels, in_channels, kernel_size, kernel_size
        self.weight = normal(key, shape, math.sqrt(2 / math.prod(shape[1:])))
        self.bias = jnp.zeros(out_channels) if use_bias else None
        self.stride = stride
        self.padding = kernel_size // 2 if padding is None else padding

    def __call__(
        self,
        x: Float[Array, "height width in_channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "new_height new_width out_channels"]:
        """Convolve one image; `key` is ignored."""
        del key
        y = _convolve(_materialise(x), self.weight, self.stride, self.padding)
        return _materialise(y if self.bias is None else y + self.bias[None, None])


def _convolve(x: Array, weight: Array, stride: int, padding: int) -> Array:
    if weight.shape[-1] == 3 and stride == padding == 1:
        return convolve_3x3(x, weight)
    return lax.conv_general_dilated(
        x[None],
        weight,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
    )[0]


def _materialise(x: Array) -> Array:
    """Keep XLA on CPUs from computing `x` anew wherever it is used.

    It would fuse normalisation and activation into the transposed copies that a
    gradient reads, at a stride of whole images. See `parallel.compiler_options`.
    """
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x
