"""Trace and Frobenius norm of one symmetric operator from its products."""

import dataclasses
import math
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from eqcifar.errors import RunError, UsageError

from ._estimate import Estimate, estimate_mean
from ._lanczos import Eigen, shares
from ._memory import BASIS_MEMORY, check_memory
from ._operator import Operator
from ._pieces import piece
from ._stopping import Stop


def hutchinson(
    operator: Operator,
    *,
    matvecs: int,
    stop: Stop | None = None,
    key: PRNGKeyArray,
) -> Estimate:
    """Estimate tr A by the mean of v'Av over sign vectors v (Hutchinson, 1989).

    The variance of one term is 2 (||A||_F^2 - sum_j A_jj^2), for indefinite A too.

    **Arguments:**

    - `matvecs`: how many products, or with `stop` the most.
    - `stop`: ends the sum when the interval is narrow enough.
    """
    _check_some(matvecs)
    start = time.perf_counter()
    values: list[float] = []

    def term(m: int) -> dict[str, Array]:
        v = _signs(jax.random.fold_in(key, m), operator)
        return {"term": jnp.vdot(v, operator(v))}

    for m in range(matvecs):
        values.append(float(piece(m, lambda m=m: term(m))["term"]))
        if stop is not None and stop.now(_mean(values), len(values)):
            break
    return _with_cost(_mean(values), len(values), start)


def frobenius(
    operator: Operator,
    *,
    probes: int,
    known: Eigen | None = None,
    key: PRNGKeyArray,
) -> Estimate:
    """Estimate ||A||_F^2 by the mean of ||Av||^2 over sign vectors v.

    **Arguments:**

    - `probes`: how many products.
    - `known`: eigenpairs (t_j, u_j), whose part is taken exactly: the terms are
        ||Av||^2 - sum_j t_j^2 ((u_j'v)^2 - 1), and only the rest of A makes noise.
    """
    _check_some(probes)
    start = time.perf_counter()

    def term(m: int) -> dict[str, float]:
        v = _signs(jax.random.fold_in(key, m), operator)
        square = float(np.sum(np.asarray(operator(v), dtype=np.float64) ** 2))
        if known is not None:
            square -= float((shares(known, v) - 1) @ known.values**2)
        return {"term": square}

    values = [float(piece(m, lambda m=m: term(m))["term"]) for m in range(probes)]
    return _with_cost(_mean(values), probes, start)


@jax.default_matmul_precision("highest")
def hutch_plus_plus(
    operator: Operator,
    *,
    matvecs: int,
    basis_memory: float = BASIS_MEMORY,
    key: PRNGKeyArray,
) -> Estimate:
    """Estimate tr A as tr(Q'AQ) + Hutchinson on the rest (Meyer et al., 2021).

    A third of the products finds the range Q, a third takes the trace on it, and a
    third estimates tr((I-QQ')A(I-QQ')), whose standard error is that of the whole.

    **Arguments:**

    - `matvecs`: how many products.
    - `basis_memory`: bytes for the vectors held, about two a product.
    """
    third = matvecs // 3
    if third < 2:
        raise UsageError("Hutch++ needs at least 6 products")
    _check_room(operator, third, 6, basis_memory)
    start = time.perf_counter()
    draws = _block(key, operator, 2 * third)
    q = jnp.linalg.qr(_apply(operator, draws[:third]).T)[0].T
    low = jnp.sum(q * _apply(operator, q, third))
    rest = draws[third:] - (draws[third:] @ q.T) @ q
    values = jnp.sum(rest * _apply(operator, rest, 2 * third), axis=1)
    mean = _mean(np.asarray(values)).shift(float(low))
    return _with_cost(mean, 3 * third, start)


@jax.default_matmul_precision("highest")
def xtrace(
    operator: Operator,
    *,
    matvecs: int,
    basis_memory: float = BASIS_MEMORY,
    key: PRNGKeyArray,
) -> Estimate:
    """Estimate tr A by leaving each of matvecs/2 vectors out in turn (XTrace).

    Epperly, Tropp & Webber (2024), with the residual test vectors put back on the
    sphere. For the range basis Q of all products, leaving vector i out removes one
    direction s_i of it, and

        t_i = tr H - s_i'H s_i + c_i x_i'A x_i,   H = Q'AQ,

    where x_i is the part of vector i outside the remaining range. The t_i share most
    of the basis and are too alike: the error reported here is their standard error
    times `XTRACE_WIDENING`, see docs/measurements/coverage.md.

    `basis_memory` is for the vectors held, about two a product.
    """
    m = matvecs // 2
    if m < 3:
        raise UsageError("XTrace needs at least 6 products")
    _check_room(operator, m, 4, basis_memory)
    start = time.perf_counter()
    omega = _sphere(key, operator, m).T
    y = _apply(operator, omega.T).T
    if not y.any():
        return _left_out(np.zeros(m), 2 * m, start)
    q, r = jnp.linalg.qr(y)
    z = _apply(operator, q.T, m).T
    h, w, r, y_omega = _small(q.T @ z, q.T @ omega, r, jnp.sum(omega * y, axis=0))
    h = 0.5 * (h + h.T)
    s = _unit_columns(np.linalg.inv(r).T)
    a = w - s * (s * w).sum(axis=0)
    outside = operator.size - 2 * (a * w).sum(axis=0) + (a * a).sum(axis=0)
    form = y_omega - 2 * (a * r).sum(axis=0) + (a * (h @ a)).sum(axis=0)
    scale = (operator.size - m + 1) / outside
    values = np.trace(h) - (s * (h @ s)).sum(axis=0) + scale * form
    return _left_out(values, 2 * m, start)


@jax.default_matmul_precision("highest")
def xnystrace(
    operator: Operator,
    *,
    matvecs: int,
    basis_memory: float = BASIS_MEMORY,
    key: PRNGKeyArray,
) -> Estimate:
    """Estimate tr A for a positive semidefinite A by XNysTrace.

    As `xtrace` with the Nystrom approximation, which needs one product a vector. Use
    it for the GGN; a Hessian with negative eigenvalues is outside its theory.

    `basis_memory` is for the vectors held, about four a product.
    """
    m = matvecs
    if m < 3:
        raise UsageError("XNysTrace needs at least 3 products")
    _check_room(operator, m, 4, basis_memory)
    start = time.perf_counter()
    omega = _sphere(key, operator, m).T
    y = _apply(operator, omega.T).T
    if not y.any():
        return _left_out(np.zeros(m), m, start)
    shift = (
        jnp.finfo(operator.dtype).eps * jnp.linalg.norm(y) / math.sqrt(operator.size)
    )
    y = y + shift * omega
    q, r = jnp.linalg.qr(y)
    inside, r_omega = jnp.linalg.qr(omega)
    gram, qw, w, r, r_omega = _small(
        omega.T @ y, q.T @ omega, inside.T @ omega, r, r_omega
    )
    try:
        upper = np.linalg.cholesky(0.5 * (gram + gram.T)).T
    except np.linalg.LinAlgError as error:
        raise UsageError(
            "XNysTrace met a matrix that is not positive semidefinite: use XTrace"
        ) from error
    back = np.linalg.inv(upper)
    b = r @ back
    diagonal = (back * back).sum(axis=1)  # of the inverse of the Gram matrix
    s = (b @ back.T) / np.sqrt(diagonal)
    dsw = (s * qw).sum(axis=0)
    # The part of each vector outside the span of the others.
    t = _unit_columns(np.linalg.inv(r_omega).T)
    outside = operator.size - (w * w).sum(axis=0) + (t * w).sum(axis=0) ** 2
    scale = (operator.size - m + 1) / outside
    values = (b * b).sum() - (s * s).sum(axis=0) + scale * dsw**2
    return _left_out(values - float(shift) * operator.size, m, start)


# Leave-one-out values share all but one vector; calibrated in benchmarks/coverage.py.
XTRACE_WIDENING = 1.5


def _signs(key: PRNGKeyArray, operator: Operator) -> Array:
    return jax.random.rademacher(key, (operator.size,), operator.dtype)


def _block(key: PRNGKeyArray, operator: Operator, count: int) -> Array:
    return jnp.stack(
        [_signs(jax.random.fold_in(key, m), operator) for m in range(count)]
    )


def _sphere(key: PRNGKeyArray, operator: Operator, count: int) -> Array:
    key = jax.random.fold_in(key, 0)
    draws = jax.random.normal(key, (count, operator.size), operator.dtype)
    lengths = jnp.linalg.norm(draws, axis=1, keepdims=True)
    return draws / lengths * math.sqrt(operator.size)


def _check_some(probes: int):
    if probes < 1:
        raise UsageError(f"{probes} probes: at least 1 is needed")


def _check_room(operator: Operator, vectors: int, blocks: int, memory: float):
    if vectors >= operator.size:
        raise UsageError(
            f"{vectors} vectors for a matrix of order {operator.size}: too many"
        )
    check_memory(
        f"{blocks} blocks of {vectors} vectors",
        blocks * vectors * operator.size * operator.dtype.itemsize,
        memory,
        "ask for fewer products or allow more memory.",
    )


def _apply(
    operator: Operator,
    rows: Float[Array, "count size"],
    before: int = 0,
) -> Array:
    """The product of each row; numbered as pieces after those `before`."""

    def product(i: int) -> dict[str, Array]:
        return {"product": operator(rows[i])}

    found = [piece(before + i, lambda i=i: product(i)) for i in range(len(rows))]
    return jnp.stack([one["product"] for one in found])


def _small(*matrices: Array) -> list[np.ndarray]:
    # The algebra of the small matrices costs nothing in float64 on the host.
    return [np.asarray(matrix, dtype=np.float64) for matrix in matrices]


def _unit_columns(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix, axis=0)


def _mean(values: Sequence[float] | np.ndarray) -> Estimate:
    # One matrix is one example.
    return estimate_mean(np.asarray([values], dtype=np.float64))


def _left_out(values: np.ndarray, matvecs: int, start: float) -> Estimate:
    mean = _mean(values)
    wide = dataclasses.replace(
        mean, probe_error=XTRACE_WIDENING * mean.probe_error, skewness=0.0
    )
    return _with_cost(wide, matvecs, start)


def _with_cost(estimate: Estimate, matvecs: int, start: float) -> Estimate:
    if not math.isfinite(estimate.value):
        raise RunError("the operator returned a value that is not finite")
    seconds = time.perf_counter() - start
    return dataclasses.replace(
        estimate, examples=0, probes=matvecs, matvecs=matvecs, seconds=seconds
    )
