"""Coverage of the interval of the expected calibration error, on known truths.

Confidences are drawn from two laws, that of a network which is mostly sure and that of
one which is not, and answers are right with a probability that differs from the
confidence by a pattern, whose size gives the true error. The patterns: overconfident by
a constant, by a share of 1 - confidence, up and down in turn from bin to bin, and in
one bin alone, which is the hardest.

    python -m benchmarks calibration --repeats 1000 --examples 1000 5000 10000
"""

import zlib

import numpy as np
from scipy.optimize import brentq

from eqcifar.training import calibration_error

from .shared import Row, parser, row, share, store

LAWS = {"sure": (9.0, 0.6), "unsure": (4.0, 1.5)}
PATTERNS = {
    "constant": lambda c: -np.ones_like(c),
    "share": lambda c: c - 1,
    "in turn": lambda c: np.where(np.floor(15 * c) % 2 == 0, 1.0, -1.0),
    "one bin": lambda c: -(np.floor(15 * c) == 12).astype(float),
}
TRUTHS = 0.0, 0.01, 0.03, 0.08


def draw(law: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Confidences in one of ten classes."""
    return np.clip(rng.beta(*LAWS[law], n), 0.1, 1 - 1e-9)


def chances(confidence: np.ndarray, pattern: str, size: float) -> np.ndarray:
    """How probable a right answer is."""
    return np.clip(confidence + size * PATTERNS[pattern](confidence), 0, 1)


def size_of(truth: float, law: str, pattern: str) -> float | None:
    """The size of a pattern whose expected calibration error is `truth`, if any is."""
    confidence = draw(law, 1_000_000, np.random.default_rng(1))
    bins = np.floor(15 * confidence).astype(int)

    def excess(size):
        gap = chances(confidence, pattern, size) - confidence
        return np.abs(np.bincount(bins, gap, 15)).sum() / len(gap) - truth

    if truth == 0:
        return 0.0
    return brentq(excess, 0, 1) if excess(1.0) > 0 else None  # pyright: ignore


def cover(law: str, pattern: str, truth: float, n: int, repeats: int) -> dict | None:
    """How often intervals hold the truth, and what is estimated on average."""
    size = size_of(truth, law, pattern)
    if size is None:
        return None
    rng = np.random.default_rng(zlib.crc32(f"{law} {pattern} {truth} {n}".encode()))
    found = []
    for _ in range(repeats):
        confidence = draw(law, n, rng)
        correct = rng.random(n) < chances(confidence, pattern, size)
        found.append(calibration_error(confidence, correct))
    low, high = (np.array([getattr(e, end) for e in found]) for end in ("low", "high"))
    return {
        "law": law,
        "pattern": "none" if truth == 0 else pattern,
        "truth": truth,
        "examples": n,
        "coverage": float(np.mean((low <= truth) & (truth <= high))),
        "above": float(np.mean(low > truth)),
        "below": float(np.mean(high < truth)),
        "mean": float(np.mean([e.value for e in found])),
        "mean_plugin": float(np.mean([e.plugin for e in found])),
        "width": float(np.mean(high - low)),
    }


def main(argv: list[str]):
    """Measure every case and store the table."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=1000)
    options.add_argument(
        "--examples", type=int, nargs="+", default=[1000, 5000, 10_000]
    )
    args = options.parse_args(argv)
    for n in args.examples:
        for law in LAWS:
            for truth in TRUTHS:
                for pattern in PATTERNS if truth else list(PATTERNS)[:1]:
                    found = cover(law, pattern, truth, n, args.repeats)
                    if found is not None:
                        store("calibration", rows(found, args.repeats))


def rows(found: dict, repeats: int) -> list[Row]:
    """A case as rows of the table."""
    what = "{law}, error {truth:g} {pattern}, {examples:,} images".format(**found)
    hits = round(found["coverage"] * repeats)
    return [
        share(what, "coverage", hits, repeats),
        row(what, "mean value", found["mean"], n=repeats),
        row(what, "mean plug-in", found["mean_plugin"], n=repeats),
        row(what, "mean width", found["width"], n=repeats),
    ]
