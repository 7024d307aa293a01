import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..fields import NOTHING, show_field
from ._columns import show_range
from ._statistics import WelchTest
from ._table import Group


def show_number(value: float, scale: float, metric: str) -> str:
    """A number, rounded to where `scale` has its second digit; accuracies to four."""
    if not math.isfinite(value):
        return NOTHING if math.isnan(value) else str(value)
    if metric.startswith("acc_") or metric == "acc":
        return f"{value:.4f}"
    if abs(value) >= 1e7 or 0 < abs(value) < 1e-4:
        digits = 3
        if math.isfinite(scale) and scale > 0:
            digits = math.floor(math.log10(abs(value))) - math.floor(math.log10(scale))
        return f"{value:.{min(max(digits + 1, 0), 5)}e}"
    if not (math.isfinite(scale) and scale > 0):
        scale = abs(value) / 100 or 1.0
    return f"{value:.{min(max(1 - math.floor(math.log10(scale)), 0), 8)}f}"


def show_time(seconds: float) -> str:
    """A time in the largest unit that gives it two digits."""
    if math.isnan(seconds):
        return NOTHING
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 10 * size:
            return f"{seconds / size:.0f} {unit}"
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.{0 if seconds >= 10 else 1}f} s"


def show_times(groups: Iterable[Group]) -> str:
    """The mean of the groups' times, or each where they are not alike."""
    times = [time for group in groups if (time := group.seconds()) == time]
    if times and max(times) < 1.2 * min(times):
        times = [math.fsum(times) / len(times)]
    return " / ".join(map(show_time, times)) or NOTHING


def show_summary(group: Group, metric: str, ddof: int) -> str:
    """Mean ± standard deviation and standard error, and the number of runs."""
    summary = group.summary(metric, ddof)
    if not summary.count:
        return f"{NOTHING} (0 of {group.size})"
    text = show_number(summary.mean, summary.std, metric)
    if not math.isnan(summary.std):
        text += f" ± {show_number(summary.std, summary.std, metric)}"
    error = group.standard_error(metric)
    if not math.isnan(error):
        text += f", se {show_number(error, error, metric)}"
    rest = "" if summary.count == group.size else f" of {group.size}"
    return f"{text} ({summary.count}{rest})"


def show_test(comparison: WelchTest | None, metric: str) -> str:
    """Effect, its interval, t and p."""
    if comparison is None:
        return NOTHING
    scale = (comparison.high - comparison.low) / 4
    effect, low, high = (
        ("+" if value > 0 else "") + show_number(value, scale, metric)
        for value in (comparison.effect, comparison.low, comparison.high)
    )
    if math.isnan(comparison.t):
        return f"{effect} (too few to test)"
    p = f"p = {comparison.p:.2g}" if comparison.p >= 1e-4 else "p < 0.0001"
    return f"{effect} [{low}, {high}], t = {comparison.t:.2f}, {p}"


def show_conditions(fields: Mapping[str, Any]) -> str:
    """Fields and their values, separated by commas."""
    return ", ".join(f"{name}={show_field(value)}" for name, value in fields.items())


def show_seeds(seeds: Sequence[int]) -> str:
    """Seeds with neighbours joined: "0-3, 7"."""
    parts: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(
        str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts
    )


def show_images(groups: Iterable[Group], metrics: Iterable[str]) -> str:
    """How many images the measures rest on: "1000", or "20 to 100"."""
    groups = list(groups)
    counts = [n for m in metrics for group in groups for n in group.images(m)]
    return show_range(counts) or NOTHING


def show_differences(group: Group, metric: str) -> str:
    """What makes the measurements of a group's runs unlike; empty if nothing does."""
    parts = []
    by_count: dict[str, list[int]] = {}
    for record in group.done:
        if metric in record.bases:
            images = record.bases[metric].images
            count = "an unknown number" if images is None else str(images)
            by_count.setdefault(count, []).append(record.seed)
    if len(by_count) > 1:
        parts.append(f"from {_by_seed(by_count)} images")
    conventions = group.conventions(metric)
    names = dict.fromkeys(name for each in conventions for name, _ in each)
    for name in names:
        by_value: dict[str, list[int]] = {}
        for each, seeds in conventions.items():
            by_value.setdefault(dict(each).get(name, NOTHING), []).extend(seeds)
        if len(by_value) > 1:
            parts.append(f"{name} {_by_seed(by_value)}")
    return "; ".join(parts)


def _by_seed(values: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(
        f"{value} (seed{'s' * (len(set(seeds)) > 1)} {show_seeds(seeds)})"
        for value, seeds in values.items()
    )
