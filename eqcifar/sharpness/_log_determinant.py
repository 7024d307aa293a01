"""The log-determinant of a matrix plus a multiple of the identity."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from eqcifar.errors import UsageError

from ._estimate import Estimate, estimate_mean
from ._lanczos import BASIS_MEMORY, lanczos
from ._operator import Operator
from ._pieces import page, whole


def log_determinant(
    operator: Operator,
    prior: float,
    *,
    probes: int,
    steps: int = 40,
    basis_memory: float = BASIS_MEMORY,
    key: PRNGKeyArray,
) -> Estimate:
    r"""Estimate $\log\det(I + A / \lambda)$ of a matrix without negative eigenvalues.

    By stochastic Lanczos quadrature of $\mathrm{tr} \log(I + A/\lambda)$, of sign
    vectors: Ubaru, Chen and Saad (2017), SIAM J. Matrix Anal. Appl. 38, 1075-1099. Half
    of it is what the Laplace approximation takes off the log-likelihood of data with
    mean curvature A and a prior of precision $N \lambda$.

    What rounding makes of a zero eigenvalue below it counts as zero.

    **Arguments:**

    - `prior`: $\lambda$.
    - `probes`: random vectors, 2 at least.
    - `steps`: of Lanczos, for each.
    - `basis_memory`: bytes for the basis.

    **Raises:**

    `UsageError` when the basis would not fit.
    """
    if not prior > 0:
        raise UsageError(f"the prior's precision must be positive, not {prior:g}")
    if probes < 2:
        raise UsageError("an error needs at least 2 probes")
    begin, terms, matvecs = time.perf_counter(), [], 0
    for m in range(probes):
        draw = jax.random.rademacher(
            jax.random.fold_in(key, m), (operator.size,), operator.dtype
        )
        with page(f"vector{m}"):
            rule = whole(lambda v=draw: _rule(operator, v, steps, basis_memory))
        values = np.maximum(rule["values"], 0.0)
        terms.append(operator.size * (rule["weights"] * np.log1p(values / prior)).sum())
        matvecs += len(values)
    found = estimate_mean(np.asarray(terms)[None])
    seconds = time.perf_counter() - begin
    return dataclasses.replace(found, examples=0, matvecs=matvecs, seconds=seconds)


def _rule(
    operator: Operator, start: Array, steps: int, memory: float
) -> dict[str, np.ndarray]:
    """The Gauss quadrature of the spectral measure that a vector sees."""
    values, _, pairs, _ = lanczos(operator, start, steps, memory)
    return {"values": values, "weights": pairs[0] ** 2}


def scaled_operator(operator: Operator, scale: Float[Array, " size"]) -> Operator:
    """The operator between two diagonal matrices, D A D.

    **Arguments:**

    - `scale`: the diagonal of D.
    """
    return Operator(
        lambda vector: scale * operator(scale * jnp.asarray(vector)),
        operator.size,
        operator.dtype,
    )
