from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

_Tree = TypeVar("_Tree")


def move_average(
    average: _Tree, new: _Tree, decay: float, step: Int32[Array, ""]
) -> _Tree:
    r"""Move an exponential average towards new values.

    $a \leftarrow d_t\,a + (1 - d_t)\,\mathrm{new}$ with
    $d_t = \min(d, (1 + t) / (10 + t))$, so that the average of a short run is not that
    of its first weights. Of weights, and of BatchNorm's running statistics with them:
    Tarvainen & Valpola, 2017, https://arxiv.org/abs/1703.01780; the rising $d_t$ is
    that of TensorFlow's `ExponentialMovingAverage`.

    **Arguments:**

    - `average`: any tree; what is no floating-point array is taken from `new`.
    - `new`: of the same structure.
    - `decay`: $d$, at least 0 and below 1.
    - `step`: $t$, how often the average has moved before.
    """

    def move(a, b):
        if not eqx.is_inexact_array(a):
            return b
        t = step.astype(a.dtype)
        kept = jnp.minimum(decay, (1 + t) / (10 + t)).astype(a.dtype)
        return b + kept * (a - b)

    return jax.tree.map(move, average, new)
