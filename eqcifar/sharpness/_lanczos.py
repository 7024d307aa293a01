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
    no further eigenvalue beyond them. `others` and their `directions` are the next
    Ritz pairs, without bounds.
    """

    values: Float[np.ndarray, " count"]
    bounds: Float[np.ndarray, " count"]
    vectors: Float[Array, "count size"]
    others: Float[np.ndarray, " more"]
    directions: Float[Array, "more size"]
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


_BLOCK = 16  # rows by which a basis grows


@partial(jax.jit, donate_argnums=0)
def _store(basis: Array, at: Array, vector: Array) -> Array:
    return basis.at[at].set(vector)


def _with_room(basis: Array, used: int, most: int) -> Array:
    """The same with zero rows at the end, if all are used and it may have more."""
    more = min(_BLOCK, most - used) if used == len(basis) else 0
    return jnp.pad(basis, ((0, more), (0, 0))) if more else basis


@jax.jit
def _orthogonalise(basis: Array, vector: Array) -> Array:
    # Twice is enough (Kahan and Parlett): unused rows are zero.
    with jax.default_matmul_precision("highest"):
        vector = vector - basis.T @ (basis @ vector)
        return vector - basis.T @ (basis @ vector)


def lanczos(
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
    basis = jnp.zeros((min(_BLOCK, fixed + steps), operator.size), operator.dtype)
    if known is not None:
        basis = jnp.concatenate([known, basis])[: fixed + steps]
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
        basis = _with_room(basis, fixed + step, fixed + steps)
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
    return values, bounds, pairs, basis[: fixed + len(values)]


def _rounding(operator: Operator, values: np.ndarray, scale: float = 0.0) -> float:
    """What rounding may leave of a product: some units of the largest value."""
    largest = max(float(np.abs(values).max()), scale)
    return 100 * float(jnp.finfo(operator.dtype).eps) * largest


_OTHERS = 8  # Ritz pairs beyond those asked for, as far as there are any
# The chance that a search does not hear an eigenvalue beyond those that it was for.
_CHANCE = 0.01
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
    near: Eigen | None = None,
    precise: bool = True,
    key: PRNGKeyArray,
) -> Eigen:
    """Find extreme eigenpairs by Lanczos with full reorthogonalisation.

    Lanczos sees one vector of each eigenspace. What it has reached is therefore set
    aside, and it starts again from a fresh random vector in the complement, for as many
    steps as would bring up one more beyond the last of the `count` values (but for a
    chance of 1 %): a repeated eigenvalue is returned as often as it occurs, as in the
    Hessian of a linear classifier.

    The bound is the norm of the residual ||A y - t y||, and the value t = y'A y, of one
    more product with each vector, in double precision where the operator has that
    (`Operator.precise`): an eigenvalue is that near. The bound does not say that none
    was missed; `Eigen.complete` says that none was found.

    **Arguments:**

    - `count`: how many eigenpairs; `which`: from which end of the spectrum.
    - `steps`: at most so many products from one start, and vectors held; fewer when
        every bound is at most `rtol` times the largest eigenvalue in modulus.
    - `basis_memory`: bytes for the basis, one vector a step.
    - `near`: as many eigenpairs of a matrix nearby, such as that of a part of the
        images. The search is then by Davidson's method (1975), from there, with that
        matrix to solve for corrections. What is orthogonal to all that is near is not
        found, and `complete` is that of `near`.

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
        if near is None:
            found = _search(operator, count, which, steps, rtol, basis_memory, key)
        else:
            found = _refine(operator, near, count, which, steps, rtol, basis_memory)
        if near is None or precise:
            found = _checked(operator, found, precise)
        values, bounds = found.values, found.bounds
        order = np.argsort(-_RANKS[which](values), kind="stable")
        return {
            "values": values[order],
            "bounds": bounds[order],
            "vectors": found.vectors[order],
            "others": found.others,
            "directions": found.directions,
            "complete": found.complete,
            "matvecs": found.products,
        }

    found = whole(find)
    return Eigen(
        found["values"],
        found["bounds"],
        jnp.asarray(found["vectors"]),
        found["others"],
        jnp.asarray(found["directions"]),
        bool(found["complete"]),
        int(found["matvecs"]),
        time.perf_counter() - begin,
    )


@dataclasses.dataclass
class _Found:
    """Ritz pairs as `Eigen` has them, whether complete, and the products taken."""

    values: Float[np.ndarray, " count"]
    bounds: Float[np.ndarray, " count"]
    vectors: Float[Array, "count size"]
    others: Float[np.ndarray, " more"]
    directions: Float[Array, "more size"]
    complete: bool
    products: int


def _checked(operator: Operator, found: _Found, precise: bool) -> _Found:
    """With Rayleigh quotients and norms of residuals by one more product each."""

    def check(vector: Array) -> dict[str, float]:
        y = np.asarray(vector, dtype=np.float64)
        y = y / np.linalg.norm(y)
        if precise:
            product, unit = operator.in_double(y), operator.precision
        else:
            product = np.asarray(operator(jnp.asarray(y, operator.dtype)), np.float64)
            unit = float(jnp.finfo(operator.dtype).eps)
        value = float(y @ product)
        bound = float(np.linalg.norm(product - value * y))
        if not math.isfinite(value + bound):
            raise RunError("the operator returned a value that is not finite")
        return {"value": value, "bound": bound + 10 * unit * abs(value)}

    exact = [
        piece(found.products + j, lambda v=vector: check(v))
        for j, vector in enumerate(found.vectors)
    ]
    values, bounds = (
        np.asarray([float(one[name]) for one in exact]) for name in ("value", "bound")
    )
    products = found.products + len(exact)
    return dataclasses.replace(found, values=values, bounds=bounds, products=products)


def _search(
    operator: Operator,
    count: int,
    which: Which,
    steps: int,
    rtol: float,
    memory: float,
    key: PRNGKeyArray,
) -> _Found:
    rank, room = _RANKS[which], min(steps, operator.size)
    none = jnp.zeros((0, operator.size), operator.dtype)
    empty = np.zeros(0)
    so = _Found(empty, empty, none, empty, none, True, 0)

    def size(values: np.ndarray) -> float:
        return float(np.abs(np.concatenate([so.values, values])).max())

    def first(values: np.ndarray) -> np.ndarray:
        """Which are the `count` first of all; what is known wins ties."""
        known = np.arange(len(so.values) + len(values)) < len(so.values)
        ranks = rank(np.concatenate([so.values, values])) + rtol * size(values) * known
        return np.argsort(-ranks, kind="stable")[:count]

    def heard(values: np.ndarray, bounds: np.ndarray, lead: float) -> bool:
        """Whether a run would have found a value that is beyond `lead`."""
        # Of degree k - 1, the polynomial of Chebyshev that is 1 on the interval of all
        # else makes a share of 1 in sqrt(size) of the start the largest.
        low, high = (rank(values) - bounds).min(), (rank(values) + bounds).max()
        if which == "magnitude":
            low = -high
        apart = (2 * lead - low - high) / max(high - low, 1e-12 * size(values))
        growth = (len(values) - 1) * math.acosh(max(apart, 1.0))
        return growth >= math.log(2 * operator.size**0.5 / _CHANCE)

    def enough(values: np.ndarray, bounds: np.ndarray) -> bool:
        new = first(values) - len(so.values)
        new = new[new >= 0]
        if len(new):
            # Some steps past the count, lest a close pair be missed.
            ripe = len(values) >= 2 * len(new) + 2
            return ripe and bool((bounds[new] <= rtol * size(values)).all())
        best, lead = int(np.argmax(rank(values))), float(rank(so.values).min())
        if rank(values)[best] + 2 * bounds[best] < lead:
            return heard(values, bounds, lead)
        return bool(bounds[best] <= rtol * np.abs(values).max())

    basis, searches = none, 0
    while len(basis) < room:
        seed = jax.random.fold_in(key, searches) if searches else key
        draw = jax.random.normal(seed, (operator.size,), operator.dtype)
        scale = size(np.zeros(1))
        values, bounds, pairs, basis = lanczos(
            operator, draw, room - len(basis), memory, enough, basis, so.products, scale
        )
        searches += 1
        small = _rounding(operator, values, size(values))
        settled = bool(bounds.max() <= small) or enough(values, bounds)
        at, known = first(values), len(so.values)
        old, new = at[at < known], at[at >= known] - known
        further = np.argsort(-rank(values))[len(new) : len(new) + _OTHERS]
        if searches > 1:
            further = further[:0]
        chosen = jnp.asarray(pairs[:, [*new, *further]].T, operator.dtype)
        with jax.default_matmul_precision("highest"):
            ritz = chosen @ basis[len(basis) - len(values) :]
        so = _Found(
            np.concatenate([so.values[old], values[new]]),
            np.concatenate([so.bounds[old], bounds[new]]),
            jnp.concatenate([so.vectors[old], ritz[: len(new)]]),
            np.concatenate([so.others, values[further]]),
            jnp.concatenate([so.directions, ritz[len(new) :]]),
            settled,
            so.products + len(values),
        )
        if not settled or (not len(new) and known == count):
            return so
        if searches == count == 1:
            rest = np.arange(len(values)) != new[0]
            if rest.any() and heard(
                values[rest], bounds[rest], float(rank(so.values)[0])
            ):
                return so
        # A copy of an eigenvalue is orthogonal to all that one start has reached.
        if 2 * len(basis) > room:
            basis = so.vectors
    return dataclasses.replace(so, complete=len(basis) == operator.size)


@jax.jit
def _form(space: Array, images: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        return space @ images.T


@jax.jit
def _ritz(
    space: Array, images: Array, chosen: Array, values: Array
) -> tuple[Array, Array, Array]:
    """Ritz vectors, their residuals, and the residuals' lengths."""
    with jax.default_matmul_precision("highest"):
        vectors = chosen @ space
        residuals = chosen @ images - values[:, None] * vectors
    return vectors, residuals, jnp.linalg.norm(residuals, axis=1)


@jax.jit
def _correction(axes: Array, gaps: Array, residual: Array, vector: Array) -> Array:
    """Solve M t = -residual for t orthogonal to the vector (Jacobi), at unit length.

    M has the `gaps` along the orthonormal `axes`, and the last of them elsewhere.
    """

    def solve(x: Array) -> Array:
        along = axes @ x
        return axes.T @ (along / gaps[:-1]) + (x - axes.T @ along) / gaps[-1]

    with jax.default_matmul_precision("highest"):
        a, b = solve(residual), solve(vector)
        step = b * (vector @ a) / (vector @ b) - a
        return step / jnp.linalg.norm(step)


def _refine(
    operator: Operator,
    near: Eigen,
    count: int,
    which: Which,
    steps: int,
    rtol: float,
    memory: float,
) -> _Found:
    """Davidson's method, from the eigenpairs of a matrix nearby."""
    rank, steps = _RANKS[which], min(steps, operator.size)
    each = operator.size * operator.dtype.itemsize
    steps = min(steps, max(int(memory / each - len(near.others)) // 2, 2 * count))
    theta = np.concatenate([near.values, near.others])
    axes = jnp.concatenate([near.vectors, near.directions])
    vectors = near.vectors[:count]
    space = _with_room(vectors, count, steps)
    images, done = jnp.zeros_like(space), 0
    while True:
        product = piece(done, lambda v=space[done]: {"product": operator(v)})
        images = _store(images, jnp.asarray(done), jnp.asarray(product["product"]))
        done += 1
        if done < count:
            continue
        form = np.asarray(_form(space, images), dtype=np.float64)[:done, :done]
        if not np.isfinite(form).all():
            raise RunError("the operator returned a value that is not finite")
        every, pairs = np.linalg.eigh((form + form.T) / 2)
        at = np.argsort(-rank(every), kind="stable")[:count]
        values, chosen = every[at], np.zeros((count, len(space)))
        chosen[:, :done] = pairs[:, at].T
        vectors, residuals, lengths = _ritz(
            space,
            images,
            jnp.asarray(chosen, operator.dtype),
            jnp.asarray(values, operator.dtype),
        )
        bounds = np.asarray(lengths)
        late = np.flatnonzero(bounds > rtol * np.abs(every).max())
        if len(late) == 0 or done == steps:
            break
        k = late[0]
        # The matrix nearby as far as it is known, and 0 elsewhere, less the value.
        floor = 1e-3 * max(float(np.abs(theta).max()), abs(values[k]))
        gaps = np.append(theta, 0.0) - values[k]
        gaps = np.where(np.abs(gaps) < floor, -floor, gaps)
        space, images = (_with_room(x, done, steps) for x in (space, images))
        step = _correction(
            axes, jnp.asarray(gaps, operator.dtype), residuals[k], vectors[k]
        )
        step = _orthogonalise(space, _orthogonalise(space, step))
        space = _store(space, jnp.asarray(done), step / jnp.linalg.norm(step))
    rows = jnp.concatenate([vectors, near.directions])
    directions = jnp.linalg.qr(rows.T)[0].T[count:]
    # Those of few images are too large.
    excess = max(float(near.values[-1] / values[-1]), 1.0) if values[-1] else 1.0
    complete = near.complete and len(late) == 0
    others = near.others / excess
    bounds = bounds + 10 * float(jnp.finfo(operator.dtype).eps) * np.abs(values)
    return _Found(values, bounds, vectors, others, directions, complete, done)


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
        values, _, pairs, _ = lanczos(operator, draw, steps, basis_memory)
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
