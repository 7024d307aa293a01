from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

_Tree = TypeVar("_Tree")


# Of a step and a dtype: the share of itself that an average keeps.
Kept = Callable[[Int32[Array, ""], jnp.dtype], Float[Array, ""]]


def move_average(
    average: _Tree, new: _Tree, kept: Kept, step: Int32[Array, ""]
) -> _Tree:
    r"""Move an average towards new values, $a \leftarrow k\,a + (1 - k)\,\mathrm{new}$.

    Of weights, and of BatchNorm's running statistics with them.

    **Arguments:**

    - `average`: any tree; what is no floating-point array is taken from `new`.
    - `new`: of the same structure.
    - `kept`: $k$, from 0 to 1; of 1, the average keeps its digits.
    - `step`: how many steps were taken before.
    """

    def move(a, b):
        if not eqx.is_inexact_array(a):
            return b
        k = kept(step, a.dtype)
        return jnp.where(k == 1, a, b + k * (a - b))

    return jax.tree.map(move, average, new)


def exponential(decay: float) -> Kept:
    r"""Of step $t$, $\min(d, (1 + t) / (10 + t))$.

    So the average of a short run is not that of its first weights: Tarvainen & Valpola,
    2017, https://arxiv.org/abs/1703.01780; the rising share is that of TensorFlow's
    `ExponentialMovingAverage`.

    **Arguments:**

    - `decay`: $d$, at least 0 and below 1.
    """

    def kept(step, dtype):
        t = step.astype(dtype)
        return jnp.minimum(decay, (1 + t) / (10 + t)).astype(dtype)

    return kept


def mean_of_epochs(first: int, steps_per_epoch: int) -> Kept:
    """The equal mean of what there is after the last step of each epoch.

    Stochastic weight averaging: Izmailov et al., 2018,
    https://arxiv.org/abs/1803.05407. Before, the average is the latest.

    **Arguments:**

    - `first`: the epoch that it begins with, counted from 1.
    - `steps_per_epoch`: how many there are.
    """

    def kept(step, dtype):
        epoch, place = jnp.divmod(step, steps_per_epoch)
        before = (epoch + 1 - first).astype(dtype)
        ends = place == steps_per_epoch - 1
        share = jnp.where(ends, before / (before + 1), 1)
        return jnp.where(before < 0, 0, share).astype(dtype)

    return kept
