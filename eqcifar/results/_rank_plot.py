import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..figures import (
    COLOURS,
    INK,
    MARKERS,
    add_legend,
    add_title,
    draw_intervals,
    figure_style,
    new_figure,
    set_log,
)
from ._rank import TARGETS, Ranged, Ranked, Ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPLITS = "train", "test", "val"


def plot_ranking(ranking: Ranking) -> "dict[str, Figure]":
    """Draw a ranking: tau of each measure by target, and what a measure is worth.

    **Arguments:**

    - `ranking`: from `rank`.

    **Returns:**

    Matplotlib figures by name; a figure's label is its caption.

    **Raises:**

    `UsageError` without Matplotlib.
    """
    figures: dict[str, Figure] = {}
    mark = "SYNTHETIC: " if ranking.synthetic else ""
    title = f"{mark}{ranking.dataset}, {ranking.networks} networks"
    for target in dict.fromkeys(row.target for row in ranking.rows):
        rows = [row for row in ranking.rows if row.target == target]
        with figure_style():
            figures[f"ranking by {target} on {ranking.dataset}"] = _draw_taus(
                rows, ranking, title
            )
    if ranking.rows and ranking.validation:
        with figure_style():
            name = f"regret on {ranking.dataset}"
            figures[name] = _draw_regrets(ranking, title)
    return figures


def _draw_taus(rows: Sequence[Ranked], ranking: Ranking, title: str) -> "Figure":
    figure = new_figure()
    names = list(dict.fromkeys(row.measure for row in rows))
    best = {n: max(_size(row.tau) for row in rows if row.measure == n) for n in names}
    names.sort(key=best.__getitem__)
    figure.set_size_inches(5.4, max(2.8, 0.34 * len(names) + 1.8))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, kind in ((left, "tau"), (right, "granulated")):
        for index, split in enumerate(_SPLITS):
            part = [row for row in rows if row.split == split]
            shift = 0.16 * (0.5 - index)
            found = [getattr(row, kind) for row in part]
            heights = [names.index(row.measure) + shift for row in part]
            draw_intervals(
                axes,
                (
                    (each.value, each.low, each.high, height)
                    for each, height in zip(found, heights, strict=True)
                ),
                index,
                f"measured on {split} images" if axes is left else "",
            )
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xlim=(-1.05, 1.05))
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.set_xlabel("Kendall's τ-b, all pairs")
    right.set_xlabel("granulated: mean τ\nwhere one option varies")
    add_title(figure, title)
    add_legend(figure)
    figure.set_label(
        f"How measures order networks by {TARGETS[rows[0].target][0]}; "
        f"n = {ranking.networks} networks of {ranking.configurations} configurations, "
        f"bars: 95 % intervals of {ranking.draws} draws of configurations and "
        "measurements."
    )
    return figure


def _size(ranged: Ranged) -> float:
    return -1.0 if math.isnan(ranged.value) else ranged.value


def _draw_regrets(ranking: Ranking, title: str) -> "Figure":
    figure = new_figure()
    axes = figure.subplots()
    add_title(axes, title)
    images, regrets = zip(*ranking.validation.items(), strict=True)
    axes.plot(
        images,
        [100 * regret for regret in regrets],
        color=INK,
        label="accuracy on held-out images",
    )
    axes.axhline(
        100 * ranking.random, color=INK, linestyle=":", label="choosing at random"
    )
    columns = {row.column: row for row in ranking.rows}
    # Of many measures, those that choose best.
    best = sorted(columns.values(), key=lambda row: row.regret.value)[: len(COLOURS)]
    for index, row in enumerate(best):
        worth = min(max(row.worth.value, images[0]), images[-1])
        low, high = row.regret.low, row.regret.high
        bars = [
            [100 * max(row.regret.value - low, 0)],
            [100 * max(high - row.regret.value, 0)],
        ]
        axes.errorbar(
            [worth],
            [100 * row.regret.value],
            yerr=bars if low == low else None,
            color=COLOURS[index],
            marker=MARKERS[index],
            linestyle="none",
            elinewidth=1,
            capsize=2,
            label=f"{row.measure}, {row.split}",
        )
    set_log(axes, "x")
    axes.set_xlabel("held-out images for each network")
    axes.set_ylabel("regret: test accuracy lost by\nchoosing one network (points)")
    axes.set_ylim(bottom=0)
    add_legend(figure)
    figure.set_label(
        "Accuracy lost by choosing the network of least measure, each drawn where "
        "choosing by accuracy on held-out images loses as much; "
        f"n = {ranking.networks} networks of {ranking.configurations} configurations, "
        f"bars: 95 % intervals of {ranking.draws} draws."
    )
    return figure
