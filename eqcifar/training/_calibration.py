import dataclasses

import numpy as np
from jaxtyping import Bool, Float

_BINS, _DRAWS, _HALVINGS = 15, 1000, 12


@dataclasses.dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error: how far confidence is from accuracy.

    Over 15 bins of equal width of the confidence, the sum of |E[(correct - confidence)
    in the bin]|, which is the l1 calibration error of the confidence of the predicted
    class (Guo et al. 2017, arXiv:1706.04599).

    - `value`: an estimate without the bias of the plug-in, in the median.
    - `low`, `high`: 95 % interval; `low` is 0 where calibrated predictions are not
        excluded, and `high` is then an upper bound.
    - `plugin`: the sum with means in place of expectations, which most papers give.
        Noise in a bin adds to it whatever its sign, so it is biased upwards, the more
        the fewer the examples (Bröcker and Smith 2007; Kumar et al. 2019,
        arXiv:1909.10155).
    """

    value: float
    low: float
    high: float
    plugin: float


def calibration_error(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> CalibrationError:
    """Estimate the expected calibration error of predictions, with its interval.

    The bins' sums are close to normal, so that the distribution of the plug-in is known
    once their means are. Its test is inverted: the interval holds each error under
    which a plug-in like the one at hand is not in either tail. What the error leaves
    open, its distribution over the bins, is the likeliest one: hybrid resampling
    (Chuang and Lai 2000, Statistica Sinica 10), drawn halfway to the bins that stand
    out for the lower end, and halfway to equal parts for the upper. How often the
    interval holds the truth is measured by `benchmarks/calibration.py`.

    **Arguments:**

    - `confidence`: probability given to the predicted class, from 0 to 1.
    - `correct`: whether that class is the label.
    """
    n = len(confidence)
    if not n:
        return CalibrationError(np.nan, np.nan, np.nan, np.nan)
    confidence = confidence.astype(np.float64)
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    used = counts > 0

    def mean(values):
        return np.bincount(bins, values, _BINS)[used] / n

    gap = mean(correct - confidence)
    # With an answer of each kind more (Agresti and Coull 1998): a bin in which nobody
    # erred is not free of noise.
    one_more = mean(confidence**2 + (1 - confidence) ** 2) / counts[used]
    squares = mean((correct - confidence) ** 2) + one_more
    covariance = (np.diag(squares) - np.outer(gap, gap)) / n
    values, basis = np.linalg.eigh(covariance)
    root = basis * np.sqrt(np.maximum(values, 0))
    normal = np.random.default_rng(0).standard_normal((_DRAWS // 2, len(gap)))
    noise = np.concatenate([normal, -normal]) @ root.T
    sizes, errors = np.abs(gap), np.sqrt(np.diag(covariance))
    signs, plugin = np.where(gap < 0, -1, 1), sizes.sum()

    def solve(spread, share):
        # The error under which that share of plug-ins is above the one at hand.
        def too_small(error):
            means = signs * spread(sizes, errors, error)
            return np.mean(np.abs(means + noise).sum(axis=1) > plugin) < share

        low, high = 0.0, plugin + 6 * np.sqrt(np.square(errors).sum())
        if not too_small(low):
            return 0.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if too_small(middle) else (low, middle)
        return min(float(high), 1.0)

    value = solve(_likeliest, 0.5)
    low, high = solve(_towards_few, 0.025), solve(_towards_equal, 0.975)
    return CalibrationError(value, min(low, value), max(high, value), float(plugin))


def _likeliest(sizes, errors, total):
    # Least squares under sum |mean| = total: sizes + shift * variance, cut at 0. The
    # shift is found among the points where one more bin leaves 0.
    variance = np.square(errors)
    order = np.argsort(-sizes / variance)
    leaves = (-sizes / variance)[order]
    shifts = (total - np.cumsum(sizes[order])) / np.cumsum(variance[order])
    shift = shifts[np.argmax(shifts <= np.append(leaves[1:], np.inf))]
    return np.maximum(sizes + shift * variance, 0)


def _towards_few(sizes, errors, total):
    likeliest = _likeliest(sizes, errors, total)
    if total >= sizes.sum():
        return likeliest
    order = np.argsort(-sizes / errors)
    kept = np.empty_like(sizes)
    before = np.cumsum(sizes[order]) - sizes[order]
    kept[order] = np.clip(total - before, 0, sizes[order])
    return (likeliest + kept) / 2


def _towards_equal(sizes, errors, total):
    return (_likeliest(sizes, errors, total) + total * errors / errors.sum()) / 2
