"""When to stop, and how much to plan for."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from eqcifar.errors import UsageError

from ._estimate import Estimate


@dataclasses.dataclass(frozen=True)
class Stop:
    """Stop when the interval reaches at most `rtol` times the value to either side.

    Looking again and again favours moments at which the spread looks small by luck.
    Against that: no look before `minimum` terms and one each `every` terms after.
    """

    rtol: float
    level: float = 0.95
    minimum: int = 20
    every: int = 4

    def now(self, sofar: Estimate, terms: int) -> bool:
        """Whether this is a moment to look, and the interval narrow enough."""
        if terms < self.minimum or terms % self.every:
            return False
        return self.narrow(sofar)

    def narrow(self, sofar: Estimate) -> bool:
        """Whether the interval is narrow enough."""
        low, high = sofar.interval(self.level)
        reach = max(sofar.value - low, high - sofar.value)
        return bool(reach <= self.rtol * abs(sofar.value))


@dataclasses.dataclass(frozen=True)
class Variances:
    """What one probe on one example is made of, each as a variance.

    With q_im = v_m'H_i v_m: `probe` A = var_v of the mean over examples, `data` D =
    var_i of the trace, `mixed` I = the rest. All relative to the squared mean.
    """

    mean: float
    probe: float
    data: float
    mixed: float


def variances(table: Float[np.ndarray, "examples probes"]) -> Variances:
    """Split the variance of a pilot in which all examples share all probes.

    The two-way random-effects decomposition; negative components are set to 0.
    """
    n, m = table.shape
    if n < 2 or m < 2:
        raise UsageError("a pilot needs at least 2 examples and 2 probes")
    mean = table.mean()
    if mean == 0:
        raise UsageError("the pilot's mean is zero: no relative precision exists")
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    rest = table - rows[:, None] - columns[None, :] + mean
    mixed = (rest**2).sum() / ((n - 1) * (m - 1))
    data = max(rows.var(ddof=1) - mixed / m, 0.0)
    probe = max(columns.var(ddof=1) - mixed / n, 0.0)
    square = mean**2
    return Variances(float(mean), probe / square, data / square, mixed / square)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many examples and probes give a relative half-width `rtol`.

    `examples`, 2 at least, at random from the split of `population`, `probes` for each
    of them (0: exact), `reached` the relative half-width predicted.
    """

    examples: int
    probes: int
    reached: float


def plan(
    pilot: Variances,
    rtol: float,
    population: int,
    *,
    batch: int = 1,
    fresh: str,
    level_width: float = 1.96,
    most_probes: int = 1000,
) -> Plan:
    """Plan a measurement of this split's mean from a pilot.

    The relative variance of the estimate is, for n of N examples and M probes,

        D/n (1 - n/N) + I/(nM) + A/(nM)     probes fresh for each example,
        D/n (1 - n/N) + I/(nM) + A b/(nM)   fresh for each batch of b,
        D/n (1 - n/N) + I/(nM) + A/M        the same for all,

    without the last two terms when the path is exact. The cheapest pair n M is
    chosen, and among equals the fewest probes.

    **Arguments:**

    - `pilot`: from `variances`.
    - `rtol`: the half-width wanted, relative to the value.
    - `batch`: images that share random vectors, where they are fresh for each batch.
    - `fresh`: `exact`, `example`, `batch` or `none`.
    - `level_width`: standard errors to a half-width.

    **Raises:**

    `UsageError` when not even the whole split with `most_probes` gets there.
    """
    goal = (rtol / level_width) ** 2
    shared = {"exact": 0.0, "example": 1.0, "batch": float(batch)}

    def variance(n: int, m: int) -> float:
        data = pilot.data / n * (1 - n / population)
        if fresh == "exact":
            return data
        main = pilot.probe / m * (1.0 if fresh == "none" else min(shared[fresh] / n, 1))
        return data + pilot.mixed / (n * m) + main

    best: tuple[int, int, int] | None = None
    for m in range(1, 2 if fresh == "exact" else most_probes + 1):
        if best is not None and m > best[0]:
            break
        if variance(population, m) > goal:
            continue
        low, high = min(2, population), population
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if variance(middle, m) <= goal else (middle + 1, high)
            )
        if best is None or (low * m, m, low) < best:
            best = (low * m, m, low)
    if best is None:
        raise UsageError(
            f"not even all {population} examples with {most_probes} probes give a "
            f"relative half-width of {rtol:g}: ask for less, or use the exact path"
        )
    _, m, n = best
    reached = level_width * math.sqrt(variance(n, m))
    return Plan(n, 0 if fresh == "exact" else m, reached)
