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
        """Half the width of the t-interval at `level`."""
        if self.standard_error in (0.0, math.inf):
            return self.standard_error
        freedom = min(self.freedom, 1e9)
        return float(stdtrit(freedom, 0.5 + 0.5 * level)) * self.standard_error

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The t-interval at `level`."""
        width = self.half_width(level)
        return self.value - width, self.value + width

    def scale(self, factor: float) -> "Estimate":
        """The estimate of `factor` times the quantity."""
        return dataclasses.replace(
            self,
            value=self.value * factor,
            probe_error=self.probe_error * abs(factor),
            data_error=self.data_error * abs(factor),
        )

    def shift(self, offset: float) -> "Estimate":
        """The estimate of the quantity plus a known constant."""
        return dataclasses.replace(self, value=self.value + offset)


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
    left = max(1.0 - n / size, 0.0) if target == "split" else 1.0
    means = table.mean(axis=1)
    value = float(means.mean())
    rows = np.arange(n) if groups is None else np.asarray(groups)
    _, group = np.unique(rows, return_inverse=True)
    counts = np.bincount(group).astype(float)
    k = len(counts)
    # Ragged batches weigh less: the effective number of groups.
    effective = float((counts**2).sum() ** 2 / (counts**4).sum())
    spread = float(means.var(ddof=1)) if n > 1 else (math.inf if left else 0.0)
    probe, data, freedom = 0.0, spread / n * left if left else 0.0, math.inf
    if not exact and m > 1:
        sums = np.stack([np.bincount(group, table[:, j]) for j in range(m)], axis=1)
        probe = float(sums.var(axis=1, ddof=1).sum()) / m / n**2
        freedom = effective * (m - 1)
        within = float(table.var(axis=1, ddof=1).mean()) / m
        data = max(spread - within, 0.0) / n * left if left else 0.0
    elif not exact and k > 1:
        share = counts / n
        between = np.bincount(group, means) / counts - value
        probe = float(((share * between) ** 2).sum()) * k / (k - 1)
        freedom, data = max(effective - 1.0, 1.0), 0.0
    elif not exact:
        probe, freedom, data = math.inf, 1.0, 0.0
    return Estimate(
        value,
        probe_error=math.sqrt(probe),
        data_error=math.sqrt(data),
        probe_freedom=freedom,
        data_freedom=max(n - 1.0, 1.0),
        target=target,
        examples=n,
        probes=0 if exact else m,
        matvecs=n * m if matvecs is None else matvecs,
        seconds=seconds,
    )
