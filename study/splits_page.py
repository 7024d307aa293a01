"""The page on curvature of the training and of the test loss, and its picture."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from eqcifar.figures import (
    COLOURS,
    INK,
    MARKERS,
    add_legend,
    new_figure,
    set_log,
)
from eqcifar.results import summarise

from . import tables
from .choosing_page import datasets, method
from .minima_rows import FIELDS, TITLES, configurations
from .sam_page import half_interval
from .tables import DATA, Row, markdown, read_about, read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Positive numbers that halves of the images have as well.
MEASURES = "tr_hess", "tr_ntk", "tr_ctk", "tr_ntk_unit", "lmax", "fisher_rao"
SHOWN = "tr_hess", "lmax", "tr_ntk"

_ALT = "Curvature of the test loss against that of the training loss, a point a network"
_CAPTION = (
    "A point is a network; lines: equality. Traces of H are of the cross-entropy, and "
    "that of the NTK knows no loss. n as in the table."
)
_NOTE = (
    "Test / train: geometric mean over configurations, seeds averaged first, of the "
    "ratio on equally many images, and Student's 95 % interval of its logarithm. p: "
    "Wilcoxon's signed-rank test of those logarithms. Halves: root mean square of the "
    "logarithm of one half of the images over the other, within a split, and of test "
    "over train, all on equally many images and as a factor, of n networks: what "
    "differs by more than the halves do is no matter of the draw of images. τ: "
    "Kendall's τ-b over networks of a measure on test with the same on train: 1 where "
    "both order networks alike."
)
_EPOCHS = (
    "Test / train of networks along training, and a 95 % interval of the draw of "
    "images; training loss: the mean over the epoch."
)


class Paired(NamedTuple):
    """A measure on test beside train, over networks.

    - `networks`, `configurations`: of how many.
    - `ratio`, `low`, `high`: geometric mean of test / train, and its 95 % interval.
    - `p`: of the signed-rank test.
    - `within`, `across`: root mean square logarithms of halves of a split, and of half
        of test over half of train.
    - `halved`: of how many networks halves were measured.
    - `tau`: of test with train.
    """

    networks: int
    configurations: int
    ratio: float
    low: float
    high: float
    p: float
    within: float
    across: float
    halved: int
    tau: float


def write_page():
    """Write the page and its picture."""
    tables.write_page("splits", made_page(), lambda: draw(read_table("minima")))


def made_page() -> str:
    """The page that the tables make."""
    return page(
        read_table("minima"),
        read_table("minima_halves"),
        read_table("minima_epochs"),
        read_about("minima"),
    )


def page(
    networks: Sequence[Row],
    halves: Sequence[Row],
    epochs: Sequence[Row],
    about: Sequence[Mapping[str, Any]],
) -> str:
    """The page, from the tables."""
    parts = tables.opening(
        "Train and test", _answer(networks, halves), "splits", _ALT, _CAPTION
    )
    for dataset in datasets(networks):
        rows = [row for row in networks if row["dataset"] == dataset]
        parts += [f"## {DATA.get(dataset, dataset)}", markdown(_table(rows, halves))]
    parts.append(_NOTE)
    if epochs:
        parts += ["## Along training", markdown(_along_training(epochs)), _EPOCHS]
    parts += ["## Method", method(networks, about), "## Limits", _limits()]
    return "\n\n".join(parts) + "\n"


def paired(networks: Sequence[Row], halves: Sequence[Row], name: str) -> Paired:
    """How a measure on test is to that on train."""
    from scipy.stats import kendalltau, wilcoxon

    rows = [row for row in networks if _positive(row, name, f"{name}_te")]
    logs = [
        statistics.mean(math.log(row[f"{name}_te"] / row[name]) for row in group)
        for group in configurations(rows)
    ]
    found = summarise(logs)
    half = half_interval(found)
    tested: Any = wilcoxon(logs) if len(logs) > 1 and any(logs) else None
    both = [[row[name] for row in rows], [row[f"{name}_te"] for row in rows]]
    ordered: Any = kendalltau(*both) if len(rows) > 1 else None
    p = math.nan if tested is None else float(tested.pvalue)
    tau = math.nan if ordered is None else float(ordered.statistic)
    within, across, halved = _of_halves(rows, halves, name)
    low, high = (math.exp(found.mean + sign * half) for sign in (-1, 1))
    mean = math.exp(found.mean)
    return Paired(
        *(len(rows), len(logs), mean, low, high, p, within, across, halved, tau)
    )


def _positive(row: Row, *names: str) -> bool:
    return all(row.get(name, math.nan) > 0 for name in names)


def _of_halves(
    networks: Iterable[Row], halves: Iterable[Row], name: str
) -> tuple[float, float, int]:
    wanted = {tuple(row[field] for field in FIELDS) for row in networks}
    by_network: dict[tuple[Any, ...], dict[tuple[str, float], float]] = {}
    for row in halves:
        key = tuple(row[field] for field in FIELDS)
        if key in wanted and _positive(row, name):
            at = row["split"], row["half"]
            by_network.setdefault(key, {})[at] = math.log(row[name])
    full = [found for found in by_network.values() if len(found) == 4]
    within = [f[s, 0.0] - f[s, 1.0] for f in full for s in ("train", "test")]
    across = [
        f["test", a] - f["train", b]
        for f in full
        for a in (0.0, 1.0)
        for b in (0.0, 1.0)
    ]
    return _root_mean_square(within), _root_mean_square(across), len(full)


def _root_mean_square(values: Sequence[float]) -> float:
    if not values:
        return math.nan
    return math.sqrt(statistics.fmean(value * value for value in values))


def _answer(networks: Sequence[Row], halves: Sequence[Row]) -> str:
    lines = []
    for dataset in datasets(networks):
        rows = [row for row in networks if row["dataset"] == dataset]
        words = []
        for name in SHOWN:
            found = paired(rows, halves, name)
            apart = _factor(found.within)
            words.append(
                f"{TITLES[name]} {_ratio(found)}"
                + f", halves of a split apart by a factor of {apart}" * bool(apart)
            )
        n = paired(rows, halves, SHOWN[0])
        lines.append(
            f"- {DATA.get(dataset, dataset)}, n = {n.networks} networks of "
            f"{n.configurations} configurations: on test over on train, "
            f"{'; '.join(words)}."
        )
    lines.append(
        "- The curvature of the cross-entropy is weighed by how unsure a network is of "
        "each image, p (1 − p) of its classes, and vanishes where training has made it "
        "sure: on training images it tells that, while the NTK, which no label or "
        "confidence enters, tells the network's slope."
    )
    return "\n".join(lines)


def _ratio(found: Paired) -> str:
    around = "" if math.isnan(found.low) else f" ({found.low:.2f} to {found.high:.2f})"
    return f"{found.ratio:.2f}{around}"


def _table(networks: Sequence[Row], halves: Sequence[Row]) -> Iterable[Sequence[str]]:
    yield (
        "measure",
        "n",
        "test / train",
        "p",
        "halves",
        "half of test / of train",
        "n",
        "τ",
    )
    for name in MEASURES:
        found = paired(networks, halves, name)
        yield (
            TITLES[name],
            f"{found.networks} ({found.configurations})",
            _ratio(found),
            "" if math.isnan(found.p) else f"{found.p:.1g}",
            _factor(found.within),
            _factor(found.across),
            str(found.halved),
            "" if math.isnan(found.tau) else f"{found.tau:+.2f}",
        )


def _along_training(epochs: Sequence[Row]) -> Iterable[Sequence[str]]:
    yield "network", "epoch", "training loss", *(f"{TITLES[name]}" for name in SHOWN)
    keys = dict.fromkeys(tuple(row[name] for name in FIELDS) for row in epochs)
    for key in keys:
        rows = [row for row in epochs if tuple(row[name] for name in FIELDS) == key]
        rows.sort(key=lambda row: row["epoch"])
        # First and last, and two between them.
        ends = {round(third * (len(rows) - 1) / 3) for third in range(4)}
        for row in (rows[at] for at in sorted(ends)):
            sam = f", SAM {row['sam']:g}" if row["sam"] else ""
            yield (
                f"{row['arch']}{sam}, {DATA.get(row['dataset'], row['dataset'])}",
                f"{row['epoch']:.0f}",
                f"{row['loss']:.2g}",
                *(ratio_of(row, name) for name in SHOWN),
            )


def ratio_of(row: Row, name: str) -> str:
    """Test over train of one network, and its 95 % interval by the two errors."""
    if not _positive(row, name, f"{name}_te"):
        return ""
    train, test = row[name], row[f"{name}_te"]
    error = math.hypot(row[f"{name}_se"] / train, row[f"{name}_te_se"] / test)
    low, high = (test / train * math.exp(sign * 1.96 * error) for sign in (-1, 1))
    return f"{test / train:.2f} ({low:.2f} to {high:.2f})"


def _factor(logarithm: float) -> str:
    return "" if math.isnan(logarithm) else f"{math.exp(logarithm):.2f}"


def _limits() -> str:
    return (
        "Small networks that fit a small part of the training images: a network that "
        "fits less differs less between the splits. Of the labels that training is "
        "given. Networks that share options are no independent draws, and p takes them "
        "as such."
    )


def draw(networks: Sequence[Row]) -> "Figure":
    """Test against train for some measures: a row of axes for each data set."""
    figure, names = new_figure(), datasets(networks)
    figure.set_size_inches(7.4, 2.6 * len(names) + 0.6)
    grid = figure.subplots(len(names), len(SHOWN), squeeze=False)
    archs = sorted({row["arch"] for row in networks})
    for dataset, line in zip(names, grid, strict=True):
        for name, axes in zip(SHOWN, line, strict=True):
            rows = [r for r in networks if r["dataset"] == dataset]
            rows = [r for r in rows if _positive(r, name, f"{name}_te")]
            for index, arch in enumerate(archs):
                part = [row for row in rows if row["arch"] == arch]
                axes.plot(
                    [row[name] for row in part],
                    [row[f"{name}_te"] for row in part],
                    color=COLOURS[index],
                    marker=MARKERS[index],
                    markersize=4,
                    linestyle="none",
                    label=arch if axes is grid[0, 0] else None,
                )
            ends = [row[at] for row in rows for at in (name, f"{name}_te")]
            if ends:
                span = min(ends) / 1.3, max(ends) * 1.3
                axes.plot(span, span, color=INK, linewidth=0.8, linestyle=":")
            set_log(axes, "x", "y")
            axes.set_xlabel(f"{TITLES[name]}, train")
            axes.set_ylabel(f"{TITLES[name]}, test")
        line[0].set_title(DATA.get(dataset, dataset))
    add_legend(figure)
    return figure
