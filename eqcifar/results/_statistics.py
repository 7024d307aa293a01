import dataclasses
import math
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Summary:
    """How many numbers there are, their mean and their standard deviation."""

    count: int
    mean: float
    std: float


def summarise(values: Iterable[float], ddof: int = 1) -> Summary:
    """Mean and standard deviation of what is not nan.

    **Arguments:**

    - `values`: the numbers.
    - `ddof`: the squared deviations are divided by `count - ddof`: 1 for the sample
        standard deviation, 0 for NumPy's default.

    **Returns:**

    A `Summary`; nan where there are too few numbers.
    """
    values = [value for value in values if not math.isnan(value)]
    count = len(values)
    if not all(map(math.isfinite, values)):
        return Summary(count, sum(values), math.nan)
    mean = math.fsum(values) / count if count else math.nan
    squares = math.fsum((value - mean) ** 2 for value in values)
    std = math.sqrt(squares / (count - ddof)) if count > ddof else math.nan
    return Summary(count, mean, std)


@dataclasses.dataclass(frozen=True)
class WelchTest:
    """Welch's test for a difference of means, and the difference's interval."""

    effect: float
    low: float
    high: float
    t: float
    dof: float
    p: float


def welch(
    values: Iterable[float], baseline: Iterable[float], level: float = 0.95
) -> WelchTest:
    """Compare two means without supposing equal variances (Welch 1947).

    With s²/n of both added to v, t is `effect / sqrt(v)`, and the degrees of freedom
    are Satterthwaite's, v² / sum((s²/n)² / (n - 1)).

    **Arguments:**

    - `values`, `baseline`: independent numbers; nan is left out.
    - `level`: of the interval.

    **Returns:**

    A `WelchTest` with the two-sided p. All but the effect is nan where a side has
    fewer than two numbers, or none on either side differ.
    """
    a, b = summarise(values), summarise(baseline)
    effect = a.mean - b.mean
    parts = [(side.std**2 / side.count, side.count) for side in (a, b) if side.count]
    variance = sum(part for part, _ in parts)
    if min(a.count, b.count) < 2 or not variance > 0:
        return WelchTest(effect, math.nan, math.nan, math.nan, math.nan, math.nan)
    # Without `scipy.stats`, which takes seconds to import.
    from scipy.special import stdtr, stdtrit

    error = math.sqrt(variance)
    dof = variance**2 / sum(part**2 / (count - 1) for part, count in parts)
    half = float(stdtrit(dof, 0.5 + level / 2)) * error
    t = effect / error
    p = 2 * float(stdtr(dof, -abs(t)))
    return WelchTest(effect, effect - half, effect + half, t, dof, p)
