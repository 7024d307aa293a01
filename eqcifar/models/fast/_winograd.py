from collections.abc import Sequence
from functools import reduce

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# From 6 values (B' in the paper) and 3 taps (G) to 4 results (A'): polynomials at 0, 1,
# -1, 2, -2 and infinity.
_TILE = 4
_VALUES = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    float,
)
_TAPS = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    float,
)
_RESULTS = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ],
    float,
)


@jax.named_scope("winograd")
def winograd(
    x: Float[Array, "batch height width in_channels"],
    weight: Float[Array, "out_channels in_channels 3 3"],
) -> Float[Array, "batch height width out_channels"]:
    """Convolve at a stride of 1 and a padding of 1, with a quarter of the products.

    Winograd's algorithm F(4x4, 3x3): Lavin and Gray, 2016,
    https://arxiv.org/abs/1509.09308. Rounding errors are four to ten times those of the
    plain sum.
    """
    taps = lax.transpose(weight, (2, 3, 1, 0))
    taps = _times(_TAPS, _unstack(_times(_TAPS, _unstack(taps, 0)), 1))
    taps = lax.optimization_barrier(taps)
    y = lax.dot_general(_values(x), taps, (((5,), (2,)), ((0, 1), (0, 1))))
    for axis, length in ((3, x.shape[2]), (1, x.shape[1])):
        y = _times(_RESULTS, _unstack(lax.optimization_barrier(y), 0), axis + 1)
        y = lax.slice_in_dim(lax.collapse(y, axis, axis + 2), 0, length, axis=axis)
    return y


@jax.named_scope("winograd")
def winograd_weight_gradient(
    x: Float[Array, "batch height width in_channels"],
    cotangent: Float[Array, "batch height width out_channels"],
) -> Float[Array, "out_channels in_channels 3 3"]:
    """The gradient of the kernel where `cotangent` is that of the result."""
    for axis in (1, 3):
        cotangent = _times(_RESULTS.T, _pieces(cotangent, axis))
    cotangent = lax.optimization_barrier(cotangent)
    places = 2, 3, 4
    taps = lax.dot_general(_values(x), cotangent, ((places, places), ((0, 1), (0, 1))))
    taps = _times(_TAPS.T, _unstack(lax.optimization_barrier(taps), 0))
    taps = _times(_TAPS.T, _unstack(taps, 1))
    return lax.transpose(taps, (3, 2, 0, 1))


def _values(x: Array) -> Array:
    for axis in (1, 3):
        inner = _pieces(x, axis)
        tiles = [_pad(inner[-1], axis, 1, -1), *inner, _pad(inner[0], axis, -1, 1)]
        x = _times(_VALUES, tiles)
    # Else XLA computes them anew wherever they are read.
    return lax.optimization_barrier(x)


def _pieces(x: Array, axis: int) -> list[Array]:
    x = _pad(x, axis, 0, -x.shape[axis] % _TILE)
    shape = *x.shape[:axis], x.shape[axis] // _TILE, _TILE, *x.shape[axis + 1 :]
    return _unstack(lax.reshape(x, shape), axis + 1)


def _pad(x: Array, axis: int, before: int, after: int) -> Array:
    if not (before or after):
        return x
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = before, after, 0
    return lax.pad(x, np.zeros((), x.dtype), widths)


def _unstack(x: Array, axis: int) -> list[Array]:
    return [lax.index_in_dim(x, i, axis, False) for i in range(x.shape[axis])]


def _times(
    matrix: Float[np.ndarray, "rows columns"], arrays: Sequence[Array], axis: int = 0
) -> Array:
    """The matrix times the arrays, whose place it takes: a new axis of its rows."""
    rows = [lax.expand_dims(_combine(row, arrays), [axis]) for row in matrix]
    return lax.concatenate(rows, axis)


def _combine(row: Float[np.ndarray, " columns"], arrays: Sequence[Array]) -> Array:
    terms = [
        array if factor == 1 else lax.mul(array, factor.astype(array.dtype))
        for factor, array in zip(row, arrays, strict=True)
        if factor
    ]
    return reduce(lax.add, terms)
