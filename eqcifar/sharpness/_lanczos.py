"""Eigenvalues and spectral density of an operator by Lanczos."""

import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.special import stdtrit

from eqcifar.errors import RunError, UsageError

from ._estimate import Estimate, estimate_mean
from ._memory import BASIS_MEMORY, check_memory
from ._operator import Operator
from ._pieces import page, piece, whole

Which = Literal["largest", "smallest", "magnitude"]


@dataclasses.dataclass(frozen=True)
class Eigen:
    """Eigenpairs with bounds: some eigenvalue lies within `bounds[j]` of `values[j]`.

    `vectors` has a unit vector a row, flat, in the order of `Network.leaves`.
    `complete`: searches from fresh random vectors, in the complement of these, found
    no further eigenvalue beyond them.
    """

    values: Float[np.ndarray, " count"]
    bounds: Float[np.ndarray, " count"]
    vectors: Float[Array, "count size"]
    complete: bool
    matvecs: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Density:
    """A spectral density on a grid, with a standard error and band at each point.

    The density integrates to 1; `trace` and `frobenius` (the squared norm) are the
    first two moments of the same runs; `width` is the smoothing Gaussian's standard
    deviation.
    """

    grid: Float[np.ndarray, " points"]
    density: Float[np.ndarray, " points"]
    error: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]
    width: float
    trace: Estimate
    frobenius: Estimate
    matvecs: int
    seconds: float


@partial(jax.jit, donate_argnums=0)
def _store(basis: Array, at: Array, vector: Array) -> Array:
    return basis.at[at].set(vector)


@jax.jit
def _orthogonalise(basis: Array, vector: Array) -> Array:
    # Twice is enough (Kahan and Parlett): unused rows are zero.
    with jax.default_matmul_precision("highest"):
        vector = vector - basis.T @ (basis @ vector)
        return vector - basis.T @ (basis @ vector)


def _run(
    operator: Operator,
    start: Array,
    steps: int,
    memory: float,
    enough: Callable[[np.ndarray, np.ndarray], bool] | None = None,
    known: Float[Array, "known size"] | None = None,
    before: int = 0,
    scale: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Array]:
    """Lanczos in the complement of `known` vectors, which are orthonormal.

    `enough` is asked at each step, with the Ritz values and their bounds. The steps are
    the pieces from number `before` on. What is small beside the larger of
    `scale` and the Ritz values is rounding, and ends it.

    **Returns:**

    Ritz values, how near each has an eigenvalue (of the operator's complement), their
    coordinates as columns, and the basis: known vectors, then one a step.
    """
    fixed = 0 if known is None else len(known)
    steps = min(steps, operator.size - fixed)
    check_memory(
        f"{fixed + steps} Lanczos vectors",
        (fixed + steps) * operator.size * operator.dtype.itemsize,
        memory,
        "take fewer steps or allow more memory.",
    )
    basis = jnp.zeros((fixed + steps, operator.size), operator.dtype)
    if known is not None:
        basis = basis.at[:fixed].set(known)
        start = _orthogonalise(basis, start)

    def advance() -> dict[str, Array]:
        product = operator(vector)
        alpha = jnp.vdot(vector, product)
        product = _orthogonalise(basis, product)
        return {"alpha": alpha, "beta": jnp.linalg.norm(product), "product": product}

    vector = start / jnp.linalg.norm(start)
    alphas, betas = [], []
    values, bounds, pairs = np.zeros(0), np.zeros(0), np.zeros((0, 0))
    for step in range(steps):
        basis = _store(basis, jnp.asarray(fixed + step), vector)
        found = piece(before + step, advance)
        alphas.append(float(found["alpha"]))
        beta = float(found["beta"])
        if not math.isfinite(alphas[-1] + beta):
            raise RunError("the operator returned a value that is not finite")
        diagonal = np.diag(np.asarray(alphas))
        off = np.diag(np.asarray(betas), 1)
        values, pairs = np.linalg.eigh(diagonal + off + off.T)
        bounds = beta * np.abs(pairs[-1])
        exhausted = beta <= _rounding(operator, values, scale)
        if exhausted or (enough is not None and enough(values, bounds)):
            break
        betas.append(beta)
        vector = jnp.asarray(found["product"]) / beta
    return values, bounds, pairs, basis


def _rounding(operator: Operator, values: np.ndarray, scale: float = 0.0) -> float:
    """What rounding may leave of a product: some units of the largest value."""
    largest = max(float(np.abs(values).max()), scale)
    return 100 * float(jnp.finfo(operator.dtype).eps) * largest


DEPTH = 3  # of the Krylov space around eigenvectors that are nearly right
# How far, beside its modulus, a fresh search follows a value that is not wanted.
_HEARD = 1e-2
_RANKS: dict[Which, Callable[[np.ndarray], np.ndarray]] = {
    "largest": lambda values: values,
    "smallest": lambda values: -values,
    "magnitude": np.abs,
}


def eigenpairs(
    operator: Operator,
    count: int = 1,
    *,
    which: Which = "largest",
    steps: int = 100,
    rtol: float = 1e-4,
    basis_memory: float = BASIS_MEMORY,
    key: PRNGKeyArray,
) -> Eigen:
    """Find extreme eigenpairs by Lanczos with full reorthogonalisation.

    Lanczos sees one vector of each eigenspace. What it has found is therefore set
    aside, and it starts again from a fresh random vector in the complement, until
    nothing beyond the last of the `count` values comes up: a repeated eigenvalue is
    returned as often as it occurs, as in the Hessian of a linear classifier.

    The bound is the norm of the residual ||A y - t y|| of one more product with each
    vector, in double precision where the operator has that (`Operator.precise`), and
    the value is that product's t = y'A y: an eigenvalue is that near. The bound does
    not say that none was missed; `Eigen.complete` says that none was found.

    **Arguments:**

    - `count`: how many eigenpairs; `which`: from which end of the spectrum.
    - `steps`: at most so many products from one start, and vectors held; fewer when
        every bound is at most `rtol` times the largest eigenvalue in modulus.
    - `basis_memory`: bytes for the basis, one vector a step.

    **Raises:**

    `UsageError` when the basis would not fit, or there are fewer eigenvalues.
    """
    if not 1 <= count <= min(steps, operator.size):
        raise UsageError(
            f"cannot find {count} eigenpairs of a matrix of order {operator.size} in "
            f"{steps} steps"
        )
    begin = time.perf_counter()

    def find() -> dict[str, Any]:
        search = _search(operator, count, which, steps, rtol, basis_memory, key)
        vectors, complete, before = search
        exact = [
            piece(before + j, lambda j=j: _check(operator, vectors[j]))
            for j in range(count)
        ]
        values, bounds = (
            np.asarray([float(one[name]) for one in exact])
            for name in ("value", "bound")
        )
        order = np.argsort(-_RANKS[which](values), kind="stable")
        return {
            "values": values[order],
            "bounds": bounds[order],
            "vectors": vectors[order],
            "complete": complete,
            "matvecs": before + count,
        }

    found = whole(find)
    return Eigen(
        found["values"],
        found["bounds"],
        jnp.asarray(found["vectors"]),
        bool(found["complete"]),
        int(found["matvecs"]),
        time.perf_counter() - begin,
    )


def _check(operator: Operator, vector: Array) -> dict[str, float]:
    """The Rayleigh quotient and the norm of its residual, by one more product."""
    y = np.asarray(vector, dtype=np.float64)
    y = y / np.linalg.norm(y)
    product = operator.in_double(y)
    value = float(y @ product)
    bound = float(np.linalg.norm(product - value * y))
    if not math.isfinite(value + bound):
        raise RunError("the operator returned a value that is not finite")
    return {"value": value, "bound": bound + 10 * operator.precision * abs(value)}


def _search(
    operator: Operator,
    count: int,
    which: Which,
    steps: int,
    rtol: float,
    memory: float,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "count size"], bool, int]:
    """Ritz vectors, whether nothing beyond them was found, and the products taken."""
    rank, room = _RANKS[which], min(steps, operator.size)
    known, before, start = np.zeros(0), 0, 0
    vectors = jnp.zeros((0, operator.size), operator.dtype)

    def size(values: np.ndarray) -> float:
        return float(np.abs(np.concatenate([known, values])).max())

    def first(values: np.ndarray) -> np.ndarray:
        """Which are the `count` first of all; what is known wins ties."""
        slack = rtol * size(values) * (np.arange(len(known) + len(values)) < len(known))
        ranks = rank(np.concatenate([known, values])) + slack
        return np.argsort(-ranks, kind="stable")[:count]

    def enough(values: np.ndarray, bounds: np.ndarray) -> bool:
        new = first(values) - len(known)
        new = new[new >= 0]
        if len(new):
            # Some steps past the count, lest a close pair be missed.
            ripe = len(values) >= 2 * len(new) + 2
            return ripe and bool((bounds[new] <= rtol * size(values)).all())
        best = int(np.argmax(rank(values)))
        apart = rank(values)[best] + 2 * bounds[best] < rank(known).min()
        largest = float(np.abs(values).max())
        return bool(bounds[best] <= (_HEARD if apart else rtol) * largest)

    while len(known) < room:
        seed = key if start == 0 else jax.random.fold_in(key, start)
        draw = jax.random.normal(seed, (operator.size,), operator.dtype)
        values, bounds, pairs, basis = _run(
            operator,
            draw,
            room - len(known),
            memory,
            enough,
            vectors,
            before,
            size(np.zeros(1)),
        )
        before, start = before + len(values), start + 1
        small = _rounding(operator, values, size(values))
        settled = bool(bounds.max() <= small) or enough(values, bounds)
        at = first(values)
        old, new = at[at < len(known)], at[at >= len(known)] - len(known)
        coefficients = jnp.asarray(pairs[:, new].T, operator.dtype)
        with jax.default_matmul_precision("highest"):
            ritz = coefficients @ basis[len(known) : len(known) + len(values)]
        vectors = jnp.concatenate([vectors[old], ritz])
        known = np.concatenate([known[old], values[new]])
        if not settled or (not len(new) and len(known) == count):
            return vectors, settled, before
    return vectors, len(known) == operator.size, before


def values_nearby(
    operator: Operator,
    vectors: Float[Array, "count size"],
    *,
    depth: int = DEPTH,
) -> tuple[Float[np.ndarray, " count"], Float[Array, "count size"]]:
    """Find the largest eigenpairs of a matrix near one whose eigenvectors are known.

    By Rayleigh and Ritz on the span of V, A V, ... A^(depth - 1) V, which takes `depth`
    products a vector and keeps repeated eigenvalues apart.

    **Arguments:**

    - `vectors`: V, those of the largest eigenvalues of the matrix nearby.

    **Returns:**

    As many eigenvalues, largest first, and unit vectors.
    """
    count = len(vectors)
    rows, form = vectors, np.zeros((depth * count,) * 2)
    for level in range(depth):
        block = []
        for j in range(level * count, len(rows)):
            found = piece(j, lambda v=rows[j]: {"product": operator(v)})
            product = jnp.asarray(found["product"])
            with jax.default_matmul_precision("highest"):
                form[: len(rows), j] = form[j, : len(rows)] = rows @ product
            rest = _orthogonalise(rows, product)
            length = jnp.linalg.norm(rest)
            block.append(rest / jnp.where(length > 0, length, 1))
        if level < depth - 1:
            rows = jnp.concatenate([rows, jnp.stack(block)])
    with jax.default_matmul_precision("highest"):
        gram = np.asarray(rows @ rows.T, dtype=np.float64)
    lengths, axes = np.linalg.eigh(gram)
    kept = lengths > 1e-6 * lengths.max()
    axes = axes[:, kept] / np.sqrt(lengths[kept])
    values, pairs = np.linalg.eigh(axes.T @ form @ axes)
    coordinates = jnp.asarray((axes @ pairs[:, : -count - 1 : -1]).T, operator.dtype)
    with jax.default_matmul_precision("highest"):
        return values[: -count - 1 : -1], coordinates @ rows


def spectral_density(
    operator: Operator,
    *,
    probes: int,
    steps: int = 60,
    points: int = 1000,
    width: float = 0.005,
    level: float = 0.95,
    basis_memory: float = BASIS_MEMORY,
    known: Eigen | None = None,
    key: PRNGKeyArray,
) -> Density:
    """Estimate the spectral density by stochastic Lanczos quadrature.

    Each random vector gives a Gauss quadrature (nodes: Ritz values, weights: squared
    first entries) of the spectral measure it sees; the density is their mean, smoothed
    by a Gaussian of standard deviation `width` times the range of Ritz values. The
    band is the pointwise t-interval over vectors: it covers the smoothed density.
    Ubaru, Chen & Saad (2017); Ghorbani, Krishnan & Xiao (2019).

    Of a multiple of the identity, the Gaussian's width is relative to the eigenvalue.
    With `known` eigenpairs, only the rest of the spectrum makes noise in the moments.
    """
    if probes < 2:
        raise UsageError("a band needs at least 2 probes")
    begin = time.perf_counter()

    def rule(m: int) -> dict[str, np.ndarray]:
        seed = jax.random.fold_in(key, m)
        draw = jax.random.rademacher(seed, (operator.size,), operator.dtype)
        values, _, pairs, _ = _run(operator, draw, steps, basis_memory)
        seen = shares(known, draw)
        return {"values": values, "weights": pairs[0] ** 2, "shares": seen}

    found = []
    for m in range(probes):
        with page(f"vector{m}"):
            found.append(whole(lambda m=m: rule(m)))
    rules = [(one["values"], one["weights"]) for one in found]
    low = min(values.min() for values, _ in rules)
    high = max(values.max() for values, _ in rules)
    spread, largest = high - low, max(abs(low), abs(high))
    if spread <= _rounding(operator, np.asarray(largest)):
        spread = largest or 1.0
    sigma = width * spread
    grid = np.linspace(low - 5 * sigma, high + 5 * sigma, points)
    curves = np.stack(
        [
            (
                weights
                * np.exp(-0.5 * ((grid[:, None] - values) / sigma) ** 2)
                / (sigma * math.sqrt(2 * math.pi))
            ).sum(axis=1)
            for values, weights in rules
        ]
    )
    density, error = curves.mean(axis=0), curves.std(axis=0, ddof=1) / probes**0.5
    reach = float(stdtrit(probes - 1, 0.5 + 0.5 * level)) * error
    matvecs = sum(len(values) for values, _ in rules)
    seconds = time.perf_counter() - begin

    def moment(power: int) -> Estimate:
        terms = np.asarray([operator.size * (w * v**power).sum() for v, w in rules])
        if known is not None:
            seen = np.stack([one["shares"] for one in found])
            terms = terms - (seen - 1) @ known.values**power
        mean = estimate_mean(terms[None])
        return dataclasses.replace(mean, examples=0, matvecs=matvecs, seconds=seconds)

    return Density(
        grid,
        density,
        error,
        np.maximum(density - reach, 0.0),
        density + reach,
        float(sigma),
        moment(1),
        moment(2),
        matvecs,
        seconds,
    )


def shares(
    known: Eigen | None, vector: Float[Array, " size"]
) -> Float[np.ndarray, " count"]:
    """Return (u_j'v)^2 for each known eigenvector, whose mean over sign vectors is 1.

    (For any unit vector: estimates that use it are unbiased whatever the bounds.)
    """
    if known is None:
        return np.zeros(0)
    with jax.default_matmul_precision("highest"):
        return np.asarray(known.vectors @ vector, dtype=np.float64) ** 2


def overlap(first: Float[Array, "k size"], second: Float[Array, "k size"]) -> float:
    """Return ||U V'||_F^2 / k of two orthonormal sets of rows: 1 for the same span."""
    with jax.default_matmul_precision("highest"):
        return float(jnp.sum((first @ second.T) ** 2)) / len(first)
