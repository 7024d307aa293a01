import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from ._winograd import winograd, winograd_weight_gradient

# With fewer, the sums before and after take more time than the products save.
_FEWEST_CHANNELS = 32


def convolve_3x3(
    x: Float[Array, "*batch height width in_channels"],
    weight: Float[Array, "out_channels in_channels 3 3"],
) -> Float[Array, "*batch height width out_channels"]:
    """Convolve at a stride and a padding of 1, on CPUs by what is quickest there.

    There it is a primitive, so that each gradient is computed by an algorithm of its
    own: that of `x` by a convolution again, that of `weight` by the primitive's
    companion. Under `vmap` over kernels, or gradients of them, Winograd's algorithm is
    not used; on other devices all is as with `lax.conv_general_dilated`.

    **Arguments:**

    - `x`: Images with the channels last, of any batch axes or none.
    - `weight`: PyTorch's way, in the dtype of `x`.

    **Returns:**

    The images of the new channels, of the size that they had.

    **Raises:**

    A `TypeError` when the kernel does not fit the images.
    """
    if x.shape[-1] != weight.shape[1] or x.dtype != weight.dtype:
        raise TypeError(
            f"a kernel of {weight.dtype}, {weight.shape[1]} channels to "
            f"{weight.shape[0]}, cannot convolve {x.dtype} of {x.shape[-1]} channels"
        )
    if jax.default_backend() == "cpu":
        return convolve_3x3_p.bind(x, weight)
    # GPUs know JAX's own gradients of a convolution.
    return _with_images(_convolve)(x, weight)


def _convolve(x: Array, weight: Array) -> Array:
    layout = "NHWC", "OIHW", "NHWC"
    return lax.conv_general_dilated(
        x, weight, (1, 1), [(1, 1), (1, 1)], dimension_numbers=layout
    )


def _convolve_densely(x: Array, weight: Array) -> Array:
    """Multiply by the whole matrix from input places to output places.

    XLA has no quick convolution of very small images on CPUs: it takes 80 times this.
    """
    # Which tap of the kernel leads from an input place to an output place.
    rows, columns = (
        jnp.arange(length)[:, None] - jnp.arange(length)[None] + 1
        for length in x.shape[1:3]
    )
    matrix = weight[:, :, rows[:, :, None, None], columns[None, None]]
    return jnp.einsum("nhwc,dchpwq->npqd", x, matrix)


def _convolve_without_winograd(x: Array, weight: Array) -> Array:
    convolve = _convolve_densely if _is_tiny(x) else _convolve
    return convolve(x, weight)


def _convolve_on_cpu(x: Array, weight: Array) -> Array:
    if _suits_winograd(x, *weight.shape[:2]):
        return winograd(x, weight)
    return _convolve_without_winograd(x, weight)


def _transpose(
    convolve: Callable[[Array, Array], Array], x: Array, cotangent: Array
) -> Array:
    """The gradient of the kernel where `cotangent` is that of the result."""
    shape = cotangent.shape[-1], x.shape[-1], 3, 3
    weight = jax.ShapeDtypeStruct(shape, x.dtype)
    (gradient,) = jax.linear_transpose(partial(convolve, x), weight)(cotangent)
    return gradient


def _gradient_on_cpu(x: Array, cotangent: Array) -> Array:
    if _suits_winograd(x, x.shape[-1], cotangent.shape[-1]):
        return winograd_weight_gradient(x, cotangent)
    return _transpose(_convolve_without_winograd, x, cotangent)


def _is_tiny(x: Array) -> bool:
    return max(x.shape[1:3]) <= 2


def _suits_winograd(x: Array, *channels: int) -> bool:
    # Half precision would lose too much in the sums.
    precise = x.dtype in (jnp.float32, jnp.float64)
    return precise and min(channels) >= _FEWEST_CHANNELS and not _is_tiny(x)


def _images(x: Array) -> Array:
    """One axis of examples, of none or several."""
    return lax.reshape(x, (math.prod(x.shape[:-3]), *x.shape[-3:]))


def _with_images(convolve: Callable[[Array, Array], Array]) -> Callable:
    def value(x: Array, weight: Array) -> Array:
        y = convolve(_images(x), weight)
        return lax.reshape(y, (*x.shape[:-1], y.shape[-1]))

    return value


def _over_images(gradient: Callable[[Array, Array], Array]) -> Callable:
    return lambda x, cotangent: gradient(_images(x), _images(cotangent))


def _primitive(
    name: str, shape: Callable, anywhere: Callable, on_cpu: Callable
) -> Primitive:
    primitive = Primitive(name)
    primitive.def_abstract_eval(lambda a, b: ShapedArray(shape(a, b), a.dtype))
    primitive.def_impl(jax.jit(primitive.bind))
    for function, platform in ((anywhere, None), (on_cpu, "cpu")):
        lowering = mlir.lower_fun(function, multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform=platform)
    return primitive


convolve_3x3_p = _primitive(
    "convolve_3x3",
    lambda x, weight: (*x.shape[:-1], weight.shape[0]),
    _with_images(_convolve),
    _with_images(_convolve_on_cpu),
)
_gradient_p = _primitive(
    "convolve_3x3_weight_gradient",
    lambda x, cotangent: (cotangent.shape[-1], x.shape[-1], 3, 3),
    _over_images(partial(_transpose, _convolve)),
    _over_images(_gradient_on_cpu),
)


def _turned(weight: Array) -> Array:
    """The kernel that leads from results back to inputs."""
    return lax.transpose(lax.rev(weight, (2, 3)), (1, 0, 2, 3))


# Of each, how its transposes in its first and in its second argument are computed.
ad.defbilinear(
    convolve_3x3_p,
    lambda cotangent, x, weight: convolve_3x3_p.bind(cotangent, _turned(weight)),
    lambda cotangent, x, weight: _gradient_p.bind(x, cotangent),
)
ad.defbilinear(
    _gradient_p,
    lambda along, x, cotangent: convolve_3x3_p.bind(cotangent, _turned(along)),
    lambda along, x, cotangent: convolve_3x3_p.bind(x, along),
)


def _convolve_batch(args, dims):
    x, weight = args
    if dims[1] is None:
        return convolve_3x3_p.bind(jnp.moveaxis(x, dims[0], 0), weight), 0
    convolve = _with_images(_convolve_without_winograd)
    return jax.vmap(convolve, in_axes=dims)(x, weight), 0


def _gradient_batch(args, dims):
    gradient = _over_images(partial(_transpose, _convolve_without_winograd))
    return jax.vmap(gradient, in_axes=dims)(*args), 0


batching.primitive_batchers[convolve_3x3_p] = _convolve_batch
batching.primitive_batchers[_gradient_p] = _gradient_batch
