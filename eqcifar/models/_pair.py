from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def pair_sums(
    a: Float[Array, "..."], b: Float[Array, "..."], axis: int
) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
    """Sum two arrays of one shape over all axes but `axis`, in one pass.

    XLA on CPUs has a pass for each sum, and writes out what is to be summed before it:
    one reduction of both spares that. JAX cannot differentiate such a reduction, so it
    is a primitive here, whose transpose is [`pair_spread`][]. Figures are in
    docs/measurements/speed.md.
    """
    left, right = _sums_p.bind(a, b, kept=(axis % a.ndim,))
    return left, right


def pair_spread(
    a: Float[Array, " channels"],
    b: Float[Array, " channels"],
    like: Float[Array, "..."],
    axis: int,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Broadcast two vectors along `axis` to the shape of `like`.

    The transpose of [`pair_sums`][], so that the gradients of both cost one pass.
    """
    left, right = _spread_p.bind(a, b, like, kept=(axis % like.ndim,))
    return left, right


def _summed_axes(x: Array, kept: Sequence[int]) -> list[int]:
    return [axis for axis in range(x.ndim) if axis not in kept]


def _sums(a: Array, b: Array, *, kept: Sequence[int]) -> list[Array]:
    axes = _summed_axes(a, kept)
    return [jnp.sum(a, axes), jnp.sum(b, axes)]


def _sums_on_cpu(a: Array, b: Array, *, kept: Sequence[int]) -> list[Array]:
    axes = _summed_axes(a, kept)
    if len(axes) < 2:
        return _sums(a, b, kept=kept)
    # The first axis by itself: threads share it, and rounding errors add up less.
    zero = jnp.zeros((), a.dtype)
    partial = lax.reduce(
        (a, b), (zero, zero), lambda x, y: (x[0] + y[0], x[1] + y[1]), axes[1:]
    )
    return [jnp.sum(each, axes[0]) for each in partial]


def _spread(a: Array, b: Array, like: Array, *, kept: Sequence[int]) -> list[Array]:
    return [lax.broadcast_in_dim(each, like.shape, kept) for each in (a, b)]


def _primitive(name, shape, implementation, on_cpu) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True

    @primitive.def_abstract_eval
    def _(*args, kept):
        return [ShapedArray(shape(*args, kept=kept), x.dtype) for x in args[:2]]

    primitive.def_impl(jax.jit(implementation, static_argnames="kept"))
    for function, platform in ((implementation, None), (on_cpu, "cpu")):
        lowering = mlir.lower_fun(function, multiple_results=True)
        mlir.register_lowering(primitive, lowering, platform=platform)
    return primitive


_sums_p = _primitive(
    "pair_sums",
    lambda a, b, *, kept: tuple(a.shape[axis] for axis in kept),
    _sums,
    _sums_on_cpu,
)
_spread_p = _primitive(
    "pair_spread", lambda a, b, like, *, kept: like.shape, _spread, _spread
)


def _sums_transpose(cotangents, a, b, *, kept):
    like = jnp.zeros(a.aval.shape, a.aval.dtype)
    return _spread_p.bind(*map(ad.instantiate_zeros, cotangents), like, kept=kept)


def _spread_jvp(primals, tangents, *, kept):
    # Of `like` only the shape matters.
    along = [*map(ad.instantiate_zeros, tangents[:2]), primals[2]]
    return _spread_p.bind(*primals, kept=kept), _spread_p.bind(*along, kept=kept)


def _spread_transpose(cotangents, a, b, like, *, kept):
    return [*_sums_p.bind(*map(ad.instantiate_zeros, cotangents), kept=kept), None]


def _at_front(args, dims):
    sizes = {x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None}
    (size,) = sizes
    return [batching.bdim_at_front(x, d, size) for x, d in zip(args, dims, strict=True)]


def _sums_batch(args, dims, *, kept):
    kept = (0, *(axis + 1 for axis in kept))
    return _sums_p.bind(*_at_front(args, dims), kept=kept), (0, 0)


def _spread_batch(args, dims, *, kept):
    a, b, like = _at_front(args, dims)
    kept = tuple(axis + 1 for axis in kept)
    if dims[0] is None and dims[1] is None:
        a, b = args[:2]
    else:
        kept = (0, *kept)
    return _spread_p.bind(a, b, like, kept=kept), (0, 0)


ad.deflinear2(_sums_p, _sums_transpose)
ad.primitive_jvps[_spread_p] = _spread_jvp
ad.primitive_transposes[_spread_p] = _spread_transpose
batching.primitive_batchers[_sums_p] = _sums_batch
batching.primitive_batchers[_spread_p] = _spread_batch
