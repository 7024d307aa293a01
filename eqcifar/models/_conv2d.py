import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray


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
        # A flat draw has the same values and compiles in a quarter of the time.
        flat = jax.random.normal(key, (math.prod(shape),))
        variance = 2 / (in_channels * kernel_size**2)
        self.weight = (math.sqrt(variance) * flat).reshape(shape)
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
        return _materialise(y if self.bias is None else y + self.bias)


def _convolve(x: Array, weight: Array, stride: int, padding: int) -> Array:
    def convolve(x, weight):
        layout = "NHWC", "OIHW", "NHWC"
        return lax.conv_general_dilated(
            x[None],
            weight,
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=layout,
        )[0]

    small = weight.shape[-1] == 3 and max(x.shape[:2]) <= 2
    if small and stride == padding == 1:
        # Both are traced everywhere: `count_multiply_adds` counts the convolution.
        return lax.platform_dependent(
            x, weight, cpu=_convolve_densely, default=convolve
        )
    return convolve(x, weight)


def _convolve_densely(x: Array, weight: Array) -> Array:
    """Multiply by the whole matrix from input places to output places.

    XLA has no quick convolution of such small images on CPUs: it takes 80 times this.
    """
    centre = weight.shape[-1] // 2
    # Which tap of the kernel leads from an input place to an output place.
    rows, columns = (
        jnp.arange(length)[:, None] - jnp.arange(length) + centre
        for length in x.shape[:2]
    )
    matrix = weight[:, :, rows[:, :, None, None], columns]
    return jnp.einsum("hwc,dchpwq->pqd", x, matrix)


def _materialise(x: Array) -> Array:
    """Keep XLA on CPUs from computing `x` anew wherever it is used.

    It would fuse normalisation and activation into the transposed copies that a
    gradient reads, at a stride of whole images. See `parallel.compiler_options`.
    """
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x
