"""Two splits side by side under common probes, with halves as the control."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from eqcifar.errors import UsageError
from eqcifar.losses import AnyLoss

from ._estimate import Estimate
from ._examples import Examples
from ._lanczos import eigenpairs, overlap
from ._memory import MEMORY, check_memory
from ._network import Network
from ._operator import operator
from ._pieces import page, piece, tell


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How alike two splits' curvature is; each cosine by matrix and by pair.

    - `trace_ratio`: tr second / tr first for `hess` and `ggn`, under common probes.
    - `cosine[matrix]`: tr(A' B) / (||A||_F ||B||_F) for `hess`, `ggn` and `resid`
        between `splits` (all of both), `across` (a half of one and a half of the other,
        the mean of four pairs), `first` and `second` (the two halves of one split: the
        control, to be set against `across`).
    - `overlap`: ||U V'||_F^2 / k of the k leading eigenvectors of Hessians, for the
        pairs `across`, `first` and `second`; empty if none were asked for.
    """

    trace_ratio: dict[str, Estimate]
    cosine: dict[str, dict[str, Estimate]]
    overlap: dict[str, float]
    matvecs: int
    seconds: float


def compare(
    network: Network,
    first: Examples,
    second: Examples,
    loss: AnyLoss,
    *,
    probes: int,
    eigenvectors: int = 0,
    seed: int = 0,
    memory: float = MEMORY,
    key: PRNGKeyArray,
) -> Comparison:
    """Compare the Hessians, GGNs and residuals of two splits.

    For sign vectors v, E[(Av)'(Bv)] = tr(AB): the cosine is a ratio of such means over
    probes common to all matrices, which cancels most of their noise. Each probe takes
    one Hessian and one GGN product over every example; the halves are those of
    `Examples.halves(seed)`, and the splits the weighted means of their halves, so the
    control costs nothing. Errors are by jackknife over probes and cover the probes
    alone: the control shows what the draw of examples does. Near 1 a cosine's error is
    skewed: 95 % intervals hold it in 87 to 95 % of draws of 5 to 20 probes, in 91 to 97
    of 50, those of trace ratios in 91 to 95 % (`benchmarks/coverage.py`).

    **Arguments:**

    - `probes`: sign vectors, three at least.
    - `eigenvectors`: how many of each half's Hessian, of the eigenvalues of largest
        modulus, to compare the spaces of; 0: none.
    - `memory`: that of a product, see `operator`; a basis of Lanczos may take four
        times as much.
    """
    check_comparison(network, probes, eigenvectors, memory)
    start = time.perf_counter()
    halves = (*first.halves(seed), *second.halves(seed))
    share = [len(halves[i]) / len(first if i < 2 else second) for i in range(4)]
    operators = [
        [operator(network, half, loss, kind, memory=memory) for half in halves]
        for kind in ("hess", "ggn")
    ]
    size, dtype = operators[0][0].size, operators[0][0].dtype

    def probe(m: int) -> dict[str, Any]:
        v = jax.random.rademacher(jax.random.fold_in(key, m), (size,), dtype)
        hess, ggn = ([apply(v) for apply in kind] for kind in operators)
        resid = [h - g for h, g in zip(hess, ggn, strict=True)]
        grams, forms = [], []
        for parts in (hess, ggn, resid):
            whole = [
                share[0] * parts[0] + share[1] * parts[1],
                share[2] * parts[2] + share[3] * parts[3],
            ]
            stack = jnp.stack([*parts, *whole])
            with jax.default_matmul_precision("highest"):
                grams.append(np.asarray(stack @ stack.T, dtype=np.float64))
                forms.append(np.asarray(stack[4:] @ v, dtype=np.float64))
        return {"gram": grams, "form": forms}

    steps = _steps(eigenvectors, size)
    found, work = [], probes + (4 * steps if eigenvectors else 0)
    with page("common"):
        for m in range(probes):
            found.append(piece(m, lambda m=m: probe(m)))
            tell(m + 1, work)
    gram = np.stack([one["gram"] for one in found])  # probe, matrix, six sets, six sets
    form = np.stack([one["form"] for one in found])  # probe, matrix, two splits
    matvecs, overlaps = 8 * probes, {}
    seconds = time.perf_counter() - start

    def record(statistic: Callable[[np.ndarray], float], rows: np.ndarray) -> Estimate:
        return dataclasses.replace(
            _jackknife(statistic, rows),
            examples=len(first) + len(second),
            matvecs=matvecs,
            seconds=seconds,
        )

    pairs = {
        "splits": [(4, 5)],
        "across": [(0, 2), (0, 3), (1, 2), (1, 3)],
        "first": [(0, 1)],
        "second": [(2, 3)],
    }
    cosine = {
        name: {
            label: record(lambda rows, which=which: _cosine(rows, which), gram[:, i])
            for label, which in pairs.items()
        }
        for i, name in enumerate(("hess", "ggn", "resid"))
    }
    ratio = {
        name: record(_quotient, form[:, i]) for i, name in enumerate(("hess", "ggn"))
    }
    if eigenvectors:
        bases = []
        for i, apply in enumerate(operators[0]):
            with page(f"half{i}"):
                leading = eigenpairs(
                    apply.counted(probes + i * steps, work),
                    eigenvectors,
                    which="magnitude",
                    steps=steps,
                    basis_memory=4 * memory,
                    key=jax.random.fold_in(key, probes + i),
                )
            bases.append(leading.vectors)
            matvecs += leading.matvecs
        overlaps = {
            label: float(np.mean([overlap(bases[i], bases[j]) for i, j in which]))
            for label, which in pairs.items()
            if label != "splits"
        }
    return Comparison(ratio, cosine, overlaps, matvecs, time.perf_counter() - start)


def check_comparison(
    network: Network, probes: int, eigenvectors: int, memory: float
) -> None:
    """Refuse what `compare` cannot do, before anything is computed.

    **Raises:**

    `UsageError` for fewer than three probes, and for more eigenvectors than there are
    or than fit.
    """
    if probes < 3:
        raise UsageError("a jackknife over probes needs at least 3 of them")
    if not 0 <= eigenvectors <= network.size:
        raise UsageError(
            f"cannot compare {eigenvectors} eigenvectors of {network.size} parameters: "
            "ask for fewer"
        )
    if eigenvectors:
        check_memory(
            f"{eigenvectors} eigenvectors",
            _steps(eigenvectors, network.size) * network.vector_bytes,
            4 * memory,
            "ask for fewer, or allow more memory.",
            of=" of Lanczos vectors",
        )


def _steps(eigenvectors: int, size: int) -> int:
    return min(3 * eigenvectors + 10, size)


def _cosine(gram: Float[np.ndarray, "6 6"], pairs: list[tuple[int, int]]) -> float:
    values = []
    for i, j in pairs:
        scale = math.sqrt(gram[i, i] * gram[j, j])
        values.append(gram[i, j] / scale if scale > 0 else 0.0)
    return float(np.mean(values))


def _quotient(forms: Float[np.ndarray, " splits"]) -> float:
    if forms[0] == 0:
        raise UsageError(
            "the first split's trace is zero (a constant network?): no ratio exists"
        )
    return float(forms[1] / forms[0])


def _jackknife(
    statistic: Callable[[np.ndarray], float], rows: Float[np.ndarray, "probes ..."]
) -> Estimate:
    """Jackknife a function of the mean over probes."""
    n = len(rows)
    total = rows.sum(axis=0)
    left = np.asarray([statistic((total - row) / (n - 1)) for row in rows])
    whole = statistic(total / n)
    error = math.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    return Estimate(
        n * whole - (n - 1) * float(left.mean()),
        error,
        probe_freedom=n - 1.0,
        probes=n,
    )


def ratio(numerator: Estimate, denominator: Estimate) -> Estimate:
    """Estimate a / b of two independent estimates by the delta method.

    The relative standard errors add in squares, cause by cause, and third moments with
    their signs. For the trace ratio of test to train with the exact path, ask both for
    `target="population"`.
    """
    if denominator.value == 0:
        raise UsageError("the denominator of the ratio is zero")
    value = numerator.value / denominator.value

    def join(top: float, bottom: float) -> float:
        return math.hypot(top, value * bottom) / abs(denominator.value)

    error = join(numerator.standard_error, denominator.standard_error)
    cubes = [
        part.skewness * (slope * part.standard_error / denominator.value) ** 3
        for part, slope in ((numerator, 1.0), (denominator, -value))
    ]
    return Estimate(
        value,
        join(numerator.probe_error, denominator.probe_error),
        join(numerator.data_error, denominator.data_error),
        skewness=sum(cubes) / error**3 if 0 < error < math.inf else 0.0,
        probe_freedom=min(numerator.probe_freedom, denominator.probe_freedom),
        data_freedom=min(numerator.data_freedom, denominator.data_freedom),
        target=numerator.target,
        examples=numerator.examples + denominator.examples,
        probes=max(numerator.probes, denominator.probes),
        matvecs=numerator.matvecs + denominator.matvecs,
        seconds=numerator.seconds + denominator.seconds,
    )
