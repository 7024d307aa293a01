"""Eigenvalues and spectral density of an operator by Lanczos."""

import dataclasses
import math
import time
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.special import stdtrit

from eqcifar.errors import RunError, UsageError

from ._estimate import Estimate, estimate_mean
from ._examples import Rows, piece
from ._memory import BASIS_MEMORY, check_memory
from ._operator import Operator

Which = Literal["largest", "smallest", "magnitude"]


@dataclasses.dataclass(frozen=True)
class Eigen:
    """Eigenpairs with bounds: some eigenvalue lies within `bounds[j]` of `values[j]`.

    `vectors` has a unit vector a row, flat, in the order of `Network.leaves`.
    """

    values: Float[np.ndarray, " count"]
    bounds: Float[np.ndarray, " count"]
    vectors: Float[Array, "count size"]
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
    done: Rows | None,
    enough: Callable[[np.ndarray, np.ndarray, float], bool] | None = None,
) -> tuple[np.ndarray, np.ndarray, float, Array]:
    """Return Ritz values, their coordinates, the next norm and the basis."""
    steps = min(steps, operator.size)
    check_memory(
        f"{steps} Lanczos vectors",
        steps * operator.size * operator.dtype.itemsize,
        memory,
        "take fewer steps or allow more memory.",
    )
    basis = jnp.zeros((steps, operator.size), operator.dtype)

    def advance() -> dict[str, Array]:
        product = operator(vector)
        alpha = jnp.vdot(vector, product)
        product = _orthogonalise(basis, product)
        return {"alpha": alpha, "beta": jnp.linalg.norm(product), "product": product}

    vector = start / jnp.linalg.norm(start)
    alphas, betas, beta = [], [], 0.0
    values, pairs = np.zeros(0), np.zeros((0, 0))
    for step in range(steps):
        basis = _store(basis, jnp.asarray(step), vector)
        found = piece(done, step, advance)
        alphas.append(float(found["alpha"]))
        beta = float(found["beta"])
        if not math.isfinite(alphas[-1] + beta):
            raise RunError("The operator returned a value that is not finite.")
        diagonal = np.diag(np.asarray(alphas))
        off = np.diag(np.asarray(betas), 1)
        values, pairs = np.linalg.eigh(diagonal + off + off.T)
        exhausted = beta <= _rounding(operator, values)
        if exhausted or (enough is not None and enough(values, pairs, beta)):
            break
        betas.append(beta)
        vector = jnp.asarray(found["product"]) / beta
    return values, pairs, beta, basis


def _rounding(operator: Operator, values: np.ndarray) -> float:
    """What rounding adds to the residual of a pair: some units of the largest value."""
    return 10 * float(jnp.finfo(operator.dtype).eps) * float(np.abs(values).max())


def eigenpairs(
    operator: Operator,
    count: int = 1,
    *,
    which: Which = "largest",
    steps: int = 100,
    rtol: float = 1e-4,
    basis_memory: float = BASIS_MEMORY,
    key: PRNGKeyArray,
    done: Rows | None = None,
) -> Eigen:
    """Find extreme eigenpairs by Lanczos with full reorthogonalisation.

    A Ritz pair (t, y) of the k-step tridiagonal matrix has ||A y - t y|| = b_k |s_k|,
    with s_k the last entry of its vector. The bound reported adds what rounding may. It
    certifies that an eigenvalue is that near, not that none was missed.

    **Arguments:**

    - `count`: how many eigenpairs; `which`: from which end of the spectrum.
    - `steps`: at most so many products; fewer when every bound is at most `rtol`
        times the largest eigenvalue in modulus.
    - `basis_memory`: bytes for the basis, one vector a step.
    - `done`: the steps of an unfinished call, read and filled; in the end the result.

    **Raises:**

    `UsageError` when the basis would not fit.
    """
    if not 1 <= count <= min(steps, operator.size):
        raise UsageError(f"Cannot find {count} eigenpairs in {steps} steps.")
    begin = time.perf_counter()
    pick = {
        "largest": lambda values: np.argsort(-values)[:count],
        "smallest": lambda values: np.argsort(values)[:count],
        "magnitude": lambda values: np.argsort(-np.abs(values))[:count],
    }[which]

    def enough(values: np.ndarray, pairs: np.ndarray, beta: float) -> bool:
        bounds = beta * np.abs(pairs[-1, pick(values)])
        # Some steps past the count, lest a close pair be missed.
        ripe = len(values) >= 2 * count + 2
        return ripe and bool((bounds <= rtol * np.abs(values).max()).all())

    def find() -> dict[str, Any]:
        draw = jax.random.normal(key, (operator.size,), operator.dtype)
        values, pairs, beta, basis = _run(
            operator, draw, steps, basis_memory, done, enough
        )
        chosen = pick(values)
        coefficients = jnp.asarray(pairs[:, chosen].T, operator.dtype)
        with jax.default_matmul_precision("highest"):
            vectors = coefficients @ basis[: len(values)]
        if done is not None:
            done.clear()
        return {
            "values": values[chosen],
            "bounds": beta * np.abs(pairs[-1, chosen]) + _rounding(operator, values),
            "vectors": vectors,
            "matvecs": len(values),
        }

    found = piece(done, -1, find)
    return Eigen(
        found["values"],
        found["bounds"],
        jnp.asarray(found["vectors"]),
        int(found["matvecs"]),
        time.perf_counter() - begin,
    )


def spectral_density(
    operator: Operator,
    *,
    probes: int,
    steps: int = 60,
    points: int = 1000,
    width: float = 0.005,
    level: float = 0.95,
    basis_memory: float = BASIS_MEMORY,
    key: PRNGKeyArray,
    done: MutableMapping[str, Rows] | None = None,
) -> Density:
    """Estimate the spectral density by stochastic Lanczos quadrature.

    Each random vector gives a Gauss quadrature (nodes: Ritz values, weights: squared
    first entries) of the spectral measure it sees; the density is their mean, smoothed
    by a Gaussian of standard deviation `width` times the range of Ritz values. The
    band is the pointwise t-interval over vectors: it covers the smoothed density.
    Ubaru, Chen & Saad (2017); Ghorbani, Krishnan & Xiao (2019).

    `done` holds an unfinished call: `rules` of whole vectors, and a vector's steps.
    """
    if probes < 2:
        raise UsageError("A band needs at least 2 probes.")
    begin = time.perf_counter()
    done = {} if done is None else done

    def rule(m: int) -> dict[str, np.ndarray]:
        seed, run = jax.random.fold_in(key, m), done.setdefault(f"vector{m}", {})
        draw = jax.random.rademacher(seed, (operator.size,), operator.dtype)
        values, pairs, *_ = _run(operator, draw, steps, basis_memory, run)
        run.clear()
        return {"values": values, "weights": pairs[0] ** 2}

    whole = done.setdefault("rules", {})
    found = [piece(whole, m, lambda m=m: rule(m)) for m in range(probes)]
    rules = [(one["values"], one["weights"]) for one in found]
    low = min(values.min() for values, _ in rules)
    high = max(values.max() for values, _ in rules)
    sigma = width * max(high - low, 1e-30)
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
        terms = [operator.size * (w * v**power).sum() for v, w in rules]
        found = estimate_mean(np.asarray([terms]))
        return dataclasses.replace(found, examples=0, matvecs=matvecs, seconds=seconds)

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


def overlap(first: Float[Array, "k size"], second: Float[Array, "k size"]) -> float:
    """Return ||U V'||_F^2 / k of two orthonormal sets of rows: 1 for the same span."""
    with jax.default_matmul_precision("highest"):
        return float(jnp.sum((first @ second.T) ** 2)) / len(first)
