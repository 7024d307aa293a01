"""A number with the reasons it may be wrong: probes drawn, examples drawn."""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

Target = Literal["split", "population"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimate and its standard error, split by cause.

    **Attributes:**

    - `value`: the estimate.
    - `probe_error`: standard error from random probes; 0 when none are used.
    - `data_error`: standard error from the draw of examples; 0 when every example
        of the target was used.
    - `probe_freedom`, `data_freedom`: degrees of freedom of the two errors.
    - `skewness`: of the error's distribution; the interval leans to its side.
    - `bias`: what was taken off to get `value`, see `estimate_fitted`.
    - `target`: what `data_error` refers to: this split, or the population that the
        split was drawn from.
    - `examples`, `probes`: examples seen; random probes an example (0: exact).
    - `matvecs`: derivative products, one for each example and probe (or one for
        each product with a fixed operator).
    - `seconds`: wall time of the pass that this number came from.
    """

    value: float
    probe_error: float = 0.0
    data_error: float = 0.0
    probe_freedom: float = math.inf
    data_freedom: float = math.inf
    skewness: float = 0.0
    bias: float = 0.0
    target: Target = "split"
    examples: int = 0
    probes: int = 0
    matvecs: int = 0
    seconds: float = 0.0

    @property
    def standard_error(self) -> float:
        """Root of the sum of squares of the two parts."""
        return math.hypot(self.probe_error, self.data_error)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the whole (Welch and Satterthwaite)."""
        parts = (
            (self.probe_error**2, self.probe_freedom),
            (self.data_error**2, self.data_freedom),
        )
        total = sum(v for v, _ in parts)
        spread = sum(v * v / f for v, f in parts if v > 0)
        return total * total / spread if spread > 0 else math.inf

    def half_width(self, level: float = 0.95) -> float:
        """Half the width of the interval at `level`."""
        low, high = self.interval(level)
        return (high - low) / 2 if math.isfinite(high) else math.inf

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The interval at `level`: the t-interval if the skewness is 0.

        Otherwise the values whose studentised distance, made symmetric by Hall's cubic
        transformation, lies between the quantiles of t. Means of quadratic forms and of
        per-example traces are skewed, and a symmetric interval then misses the truth
        on one side too often. Hall (1992), J. R. Statist. Soc. B 54, 221-228.
        """
        error = self.standard_error
        if error in (0.0, math.inf):
            return self.value - error, self.value + error
        t = float(stdtrit(min(self.freedom, 1e9), 0.5 + 0.5 * level))
        upper, lower = _skewed(t, self.skewness), _skewed(-t, self.skewness)
        return self.value - upper * error, self.value - lower * error

    def scale(self, factor: float) -> "Estimate":
        """The estimate of `factor` times the quantity."""
        return dataclasses.replace(
            self,
            value=self.value * factor,
            probe_error=self.probe_error * abs(factor),
            data_error=self.data_error * abs(factor),
            bias=self.bias * factor,
            skewness=math.copysign(self.skewness, self.skewness * factor),
        )

    def shift(self, offset: float) -> "Estimate":
        """The estimate of the quantity plus a known constant."""
        return dataclasses.replace(self, value=self.value + offset)

    def with_more_error(
        self, probe_error: float = 0.0, data_error: float = 0.0
    ) -> "Estimate":
        """The estimate with independent, symmetric errors added."""
        wider = dataclasses.replace(
            self,
            probe_error=math.hypot(self.probe_error, probe_error),
            data_error=math.hypot(self.data_error, data_error),
        )
        if wider.standard_error in (0.0, math.inf):
            return wider
        shrink = self.standard_error / wider.standard_error
        return dataclasses.replace(wider, skewness=self.skewness * shrink**3)


def _skewed(t: float, skewness: float) -> float:
    # The inverse of Hall's T + g (2 T^2 + 1) / 6 + g^2 T^3 / 27, for g the skewness.
    if abs(skewness) < 1e-6:
        return t
    return 3 / skewness * (math.cbrt(1 + skewness * (t - skewness / 6)) - 1)


def _bounded(skewness: float) -> float:
    # That of a mean of independent terms, as a sample tells it, is never beyond.
    return max(-1.0, min(skewness, 1.0))


def _third(terms: Float[np.ndarray, " terms"]) -> float:
    """The third cumulant of the sum of independent terms; 0 where nothing tells it."""
    k = len(terms)
    if k < 4:  # too few to tell
        return 0.0
    cubes = float(((terms - terms.mean()) ** 3).sum())
    return cubes * k**2 / ((k - 1) * (k - 2))


def _freedom(terms: Float[np.ndarray, " terms"]) -> float:
    """Of the variance of independent terms: n - 1, or fewer for heavy tails.

    A chi-squared variable of f degrees has a squared variation of 2 / f, a sample
    variance about (kurtosis - 1) / n.
    """
    n = len(terms)
    centred = terms - terms.mean()
    square = float((centred**2).mean())
    if n < 2 or square == 0:
        return max(n - 1.0, 1.0)
    kurtosis = float((centred**4).mean()) / square**2
    return min(n - 1.0, 2 * n / max(kurtosis - 1.0, 1e-9))


def _freedom_of_sum(variances: Float[np.ndarray, " groups"], m: int) -> float:
    """Of a sum of variances, each of m probes (Satterthwaite)."""
    most, squares = len(variances) * (m - 1.0), float((variances**2).sum())
    if squares == 0:
        return most
    # E s^4 = sigma^4 (m + 1) / (m - 1).
    return min(most, (m + 1) * float(variances.sum()) ** 2 / squares)


def estimate_mean(
    table: Float[np.ndarray, "examples probes"],
    *,
    groups: Int[np.ndarray, " examples"] | None = None,
    exact: bool = False,
    population: int | None = None,
    target: Target = "split",
    matvecs: int | None = None,
    seconds: float = 0.0,
) -> Estimate:
    """Estimate the mean over examples from a table of unbiased values.

    With q_im the value of example i under probe m, n examples out of N, M probes,
    and probes shared inside each group g (a batch) but independent between groups:

        value  = 1/(nM) sum_im q_im
        probe  = 1/n^2 sum_g var_m(sum_(i in g) q_im) / M
        data   = max(var_i(mean_m q_im) - mean_i var_m(q_im)/M, 0) / n * (1 - n/N)

    The factor 1 - n/N is that of sampling without replacement, and 1 when the
    target is the population. With M = 1 the two causes cannot be told apart, and
    the variance between groups, which holds both, is reported as the probe's: a
    safe (wide) error. One group and one probe leave no error to estimate: infinite.

    Third moments give the skewness, in the same way (those of probes take M > 3), and
    fourth moments the degrees of freedom: a variance of terms with heavy tails, or of
    few groups that outweigh the rest, is known less well than one of normal terms.

    **Arguments:**

    - `table`: q, one row an example.
    - `groups`: which rows share their probes; by default every row has its own.
    - `exact`: the rows are exact: their probes' variance is zero.
    - `population`: N, the size of the split; by default n.
    - `target`: whose mean is wanted.
    - `matvecs`, `seconds`: the cost, for the record.

    **Returns:**

    The `Estimate`, in the table's unit.
    """
    n, m = table.shape
    size = n if population is None else population
    share = n / size if target == "split" else 0.0
    left, third = max(1.0 - share, 0.0), max(1.0 - share, 0.0) * (1.0 - 2.0 * share)
    means = table.mean(axis=1)
    value = float(means.mean())
    rows = np.arange(n) if groups is None else np.asarray(groups)
    _, group = np.unique(rows, return_inverse=True)
    counts = np.bincount(group).astype(float)
    k = len(counts)
    # What each group adds to the error of the mean; ragged groups count for less.
    terms = (np.bincount(group, means) - counts * value) / n
    spread = float(means.var(ddof=1)) if n > 1 else math.inf
    probe, data, freedom = 0.0, spread / n * left if left else 0.0, math.inf
    cube = third * _third(terms)
    if not exact and m > 1:
        sums = np.stack([np.bincount(group, table[:, j]) for j in range(m)], axis=1) / n
        variances = sums.var(axis=1, ddof=1)
        probe = float(variances.sum()) / m
        freedom = _freedom(sums[0]) if k == 1 else _freedom_of_sum(variances, m)
        within = float(table.var(axis=1, ddof=1).mean()) / m
        data = max(spread - within, 0.0) / n * left if left else 0.0
        cube += (1.0 - third) * sum(_third(row) for row in sums) / m**3
    elif not exact and k > 1:
        probe = float((terms**2).sum()) * k / (k - 1)
        freedom, data, cube = _freedom(terms), 0.0, _third(terms)
    elif not exact:
        probe, freedom, data = math.inf, 1.0, 0.0
    error = math.sqrt(probe + data)
    return Estimate(
        value,
        probe_error=math.sqrt(probe),
        data_error=math.sqrt(data),
        probe_freedom=freedom,
        data_freedom=_freedom(means),
        skewness=_bounded(cube / error**3) if 0 < error < math.inf else 0.0,
        target=target,
        examples=n,
        probes=0 if exact else m,
        matvecs=n * m if matvecs is None else matvecs,
        seconds=seconds,
    )
