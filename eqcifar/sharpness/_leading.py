"""The largest eigenpairs of a mean over images, found from a part of them."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ._lanczos import Eigen, eigenpairs, lanczos
from ._memory import BASIS_MEMORY
from ._operator import Operator, mean_of
from ._pieces import page, piece, tell


def leading_eigenpair(
    operator: Operator,
    start: Float[Array, " size"],
    *,
    steps: int = 40,
    rtol: float = 1e-3,
    basis_memory: float = BASIS_MEMORY,
) -> tuple[float, float, Float[Array, " size"]]:
    """Find the largest eigenvalue by Lanczos from a vector that is nearly right.

    **Arguments:**

    - `operator`: the matrix.
    - `start`: such as the eigenvector of a matrix nearby, with something random added:
        what is orthogonal to it is never found.
    - `steps`: at most so many products; fewer when the bound is at most `rtol` times
        the value.
    - `basis_memory`: bytes for the basis, one vector a step.

    **Returns:**

    The value, how near to it an eigenvalue is, and a unit vector.

    **Raises:**

    `UsageError` when the basis would not fit, `RunError` for a product that is not
    finite.
    """

    def enough(values, bounds):
        return bounds[-1] <= rtol * abs(values[-1])

    values, bounds, pairs, basis = lanczos(operator, start, steps, basis_memory, enough)
    with jax.default_matmul_precision("highest"):
        vector = jnp.asarray(pairs[:, -1], basis.dtype) @ basis[: len(values)]
    return float(values[-1]), float(bounds[-1]), vector / jnp.linalg.norm(vector)


def eigenpairs_of_mean(
    parts: Sequence[Operator],
    shares: Float[np.ndarray, " parts"],
    count: int,
    *,
    steps: int,
    rtol: float,
    basis_memory: float = BASIS_MEMORY,
    precise: bool = True,
    work: tuple[int, int],
    key: PRNGKeyArray,
) -> Eigen:
    """Find the largest eigenpairs of a mean of operators, from those of the first.

    **Arguments:**

    - `parts`, `shares`: see `mean_of`; such as the Hessians of groups of images.
    - `work`: products done before, and the whole, which is reported on.
    - Others: see `eigenpairs`.

    **Returns:**

    The eigenpairs; `matvecs` counts products of the mean, a part's by its share.
    """
    options: dict[str, Any] = {"steps": steps, "basis_memory": basis_memory}
    near, before = None, 0.0
    if len(parts) > 1:
        with page("part"):
            near = eigenpairs(
                parts[0].counted(*work, shares[0]),
                count,
                rtol=max(rtol, 1e-2),
                precise=False,
                key=jax.random.fold_in(key, 1),
                **options,
            )
        before = near.matvecs * float(shares[0])
    matrix = mean_of(parts, shares).counted(work[0] + int(before), work[1])
    options |= {"near": near, "precise": precise}
    found = eigenpairs(matrix, count, rtol=rtol, key=key, **options)
    return dataclasses.replace(found, matvecs=math.ceil(found.matvecs + before))


@dataclasses.dataclass(frozen=True)
class Halves:
    """The largest eigenpairs of means of some of the parts.

    - `values`: of each half of each cut.
    - `rows`, `coefficients`: whose products are the unit eigenvectors.
    """

    values: Float[np.ndarray, "cuts 2 count"]
    rows: Float[Array, "rows size"]
    coefficients: Float[np.ndarray, "cuts 2 count rows"]

    def vectors(self, cut: int, side: int) -> Float[Array, "count size"]:
        """The eigenvectors of a half."""
        chosen = jnp.asarray(self.coefficients[cut, side], self.rows.dtype)
        with jax.default_matmul_precision("highest"):
            return chosen @ self.rows


def eigenpairs_of_halves(
    parts: Sequence[Operator],
    shares: Float[np.ndarray, "cuts 2 parts"],
    found: Eigen,
    count: int,
    *,
    work: tuple[int, int],
) -> Halves:
    """Find the largest eigenpairs of halves of a mean near those of the whole.

    By one product of each part with each eigenvector V of the whole, whatever the
    number of cuts. With that a half's matrix is known on V; on what is orthogonal to V
    it is taken to be that of the whole, as far as this is known from `found`, and 0
    elsewhere. What it is beyond first order in the difference comes from the largest
    eigenvalue of a matrix, not of a series, so that a small gap does no harm.

    **Arguments:**

    - `parts`: the matrices.
    - `shares`: of each half, see `mean_of`.
    - `found`: of the whole, its first `count` eigenpairs are meant.
    - `work`: see `eigenpairs_of_mean`.
    """
    basis = jnp.concatenate([found.vectors, found.directions])
    theta, size = np.concatenate([found.values, found.others]), len(basis)
    products = []
    for number, (k, part) in enumerate(itertools.product(range(count), parts)):
        one = piece(number, lambda k=k, part=part: {"product": part(basis[k])})
        products.append(jnp.asarray(one["product"]))
        tell(work[0] + (number + 1) // len(parts), work[1])
    pushed = jnp.stack(products)
    with jax.default_matmul_precision("highest"):
        along, rest = pushed @ basis.T, pushed - (pushed @ basis.T) @ basis
        gram = np.asarray(rest @ rest.T, dtype=np.float64)
    along = np.asarray(along, dtype=np.float64).reshape(count, len(parts), size)
    gram = gram.reshape(count, len(parts), count, len(parts))
    values = np.zeros((*shares.shape[:2], count))
    coefficients = np.zeros((*values.shape, size + len(pushed)))
    for at in np.ndindex(*shares.shape[:2]):
        share = shares[at]
        known = np.einsum("g,kgm->km", share, along)
        # What is beyond the basis, as multiples of as many orthonormal vectors.
        squares, axes = np.linalg.eigh(np.einsum("g,kglh,h->kl", share, gram, share))
        lengths = np.sqrt(np.maximum(squares, 0.0))
        matrix = np.diag(np.concatenate([theta, np.zeros(count)]))
        matrix[:count, :size], matrix[:size, :count] = known, known.T
        outside = axes * lengths
        matrix[:count, size:], matrix[size:, :count] = outside, outside.T
        every, pairs = np.linalg.eigh(matrix)
        values[at], top = every[: -count - 1 : -1], pairs[:, : -count - 1 : -1].T
        beyond = top[:, size:] / np.where(lengths > 0, lengths, np.inf) @ axes.T
        coefficients[at][:, :size] = top[:, :size] - beyond @ known
        coefficients[at][:, size:] = (beyond[:, :, None] * share).reshape(count, -1)
    return Halves(values, jnp.concatenate([basis, pushed]), coefficients)
