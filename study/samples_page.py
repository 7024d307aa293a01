"""The page on how many images and probes a number takes, and its picture."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eqcifar.figures import (
    COLOURS,
    DASHES,
    MARKERS,
    add_legend,
    new_figure,
    set_log,
)

from . import tables
from .choosing_page import datasets, method
from .minima_rows import TITLES, column_of
from .tables import DATA, Row, markdown, read_about, read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTITIES = {
    "tr_ggn": "tr GGN of the cross-entropy",
    "tr_ntk": "tr NTK",
    "tr_ntk_unit": "tr NTK, unit logits",
}
FITTED = "lmax", "sam", "average"
WANTED = 0.1

_ALT = "Standard error against images: drawn, and by theory, exact and with probes"
_CAPTION = (
    "Spread of estimates over draws of images and probes (points), and what the two "
    "variances give (lines): exact traces of each image, and one and four probes an "
    "image. The right end of an axis is half of the split."
)
_RULE = (
    "Half a relative 95 % interval is $1.96\\sqrt{(D/n)(1 - n/N) + I/(nM)}$ for $n$ of "
    "$N$ images and $M$ probes each, $D$ the squared variation of the trace over "
    "images and $I$ that of one probe on one image. For a fixed $nM$ one probe an "
    "image is best, and two are the fewest that tell the two errors apart. So "
    "$n = (1.96/\\varepsilon)^2 (D + I/M)$ images give $\\varepsilon$, for small $n/N$."
)


def write_page():
    """Write the page and its picture."""
    tables.write_page(
        "samples",
        made_page(),
        lambda: draw(read_table("samples_networks"), read_table("samples_means")),
    )


def made_page() -> str:
    """The page that the tables make."""
    about = read_about("minima")
    networks, means, plans, fitted = (
        read_table(f"samples_{name}")
        for name in ("networks", "means", "plans", "fitted")
    )
    return page(read_table("minima"), networks, means, plans, fitted, about)


def page(
    minima: Sequence[Row],
    networks: Sequence[Row],
    means: Sequence[Row],
    plans: Sequence[Row],
    fitted: Sequence[Row],
    about: Sequence[Mapping[str, Any]],
) -> str:
    """The page, from the tables."""
    parts = [
        *tables.opening(
            "How many samples?",
            _answer(minima, networks, plans),
            "samples",
            _ALT,
            _CAPTION,
        ),
        "## The rule",
        _RULE,
        markdown(_variation(minima)),
        "D + I/2 over all networks of the study, from the standard errors of their "
        "measures with two probes an image: least, median and largest, and the images "
        f"that the median takes to be told to {WANTED:.0%}.",
        "## Against all images",
        markdown(_coverage(means)),
        "Of 95 % intervals, those that hold the value over all images of the split, "
        "and the root mean square of the standard errors over the spread of the "
        "estimates.",
        "## Planned and stopped",
        markdown(_planned(plans)),
        "`--rtol` stops a pass and `--how-many` plans one from a pilot of 128 images, "
        "exact traces; near: share of draws within that part of the value over all.",
        "## λ_max and rises",
        markdown(_maxima(fitted)),
        "Numbers that are fitted to the images at hand are too large by the bias that "
        "is taken off: before and after, over the value of all images, means over "
        "draws.",
        "## Method",
        method(minima, about),
        "## Limits",
        f"n = {len({(row['arch'], row['dataset']) for row in networks})}, the first "
        "network of an architecture and data set, a small one, but for the variation; "
        "N is the training split of the study, not 50,000 images. Draws of images "
        "share the network, and few draws of λ_max tell its coverage roughly.",
    ]
    return "\n\n".join(parts) + "\n"


def squared_variation(row: Row, name: str) -> float:
    """D + I/2 of a measure of a network, from its standard error; nan without one."""
    value, error, n = (row.get(k, math.nan) for k in (name, f"{name}_se", "samples"))
    left = 1 - n / row["images"]
    return error**2 * n / left / value**2 if value > 0 and left > 0 else math.nan


def images_for(variation: float, rtol: float) -> float:
    """So many images give half a 95 % interval of `rtol`, of a large split."""
    return (1.96 / rtol) ** 2 * variation


def _answer(
    minima: Sequence[Row], networks: Sequence[Row], plans: Sequence[Row]
) -> str:
    lines = []
    for dataset in datasets(minima):
        found = _variations(minima, dataset, "tr_hess")
        if not found:
            continue
        middle = images_for(statistics.median(found), WANTED)
        most = images_for(max(found), WANTED)
        lines.append(
            f"- {DATA.get(dataset, dataset)}, n = {len(found)} networks: tr H of the "
            f"training loss to {WANTED:.0%} takes {_round(middle)} images with two "
            f"probes each for the median network, and {_round(most)} for the worst."
        )
    wanted = [row for row in plans if row["rtol"] == WANTED]
    if wanted:
        draws = sum(row["draws"] for row in wanted)
        near = sum(row["stopped_near"] for row in wanted) / draws
        planned = sum(row["planned_near"] for row in wanted) / draws
        lines.append(
            f"- Asked for {WANTED:.0%}, `--rtol` came within it in {near:.1%} of "
            f"{draws:,.0f} draws and `--how-many` in {planned:.1%}, over "
            f"{len(wanted)} quantities and networks, none of which either knew before."
        )
    shares = [row["of_probes"] / row["of_images"] for row in networks]
    if shares:
        lines.append(
            f"- A probe on an image adds {min(shares):.2f} to {max(shares):.2f} of the "
            "variance that images have: more images are better than more probes."
        )
    return "\n".join(lines)


def _round(count: float) -> str:
    return f"{float(f'{count:.2g}'):,.0f}"


def _variations(minima: Iterable[Row], dataset: str, name: str) -> list[float]:
    rows = [row for row in minima if row["dataset"] == dataset]
    found = [squared_variation(row, name) for row in rows]
    return sorted(value for value in found if not math.isnan(value))


def _variation(minima: Sequence[Row]) -> Iterable[Sequence[str]]:
    yield "data", "measure", "n", "D + I/2", f"images for {WANTED:.0%}"
    for dataset in datasets(minima):
        for name in ("tr_hess", "tr_ntk", "tr_ntk_unit"):
            found = _variations(minima, dataset, name)
            if found:
                middle = statistics.median(found)
                yield (
                    DATA.get(dataset, dataset),
                    TITLES[name],
                    str(len(found)),
                    f"{found[0]:.2g}, {middle:.2g}, {found[-1]:.2g}",
                    _round(images_for(middle, WANTED)),
                )


def _coverage(means: Sequence[Row]) -> Iterable[Sequence[str]]:
    counts = sorted({row["n"] for row in means})
    yield "quantity", "probes", "networks", *(f"{n:.0f} images" for n in counts)
    for quantity, probes in sorted({(r["quantity"], r["probes"]) for r in means}):
        rows = [r for r in means if (r["quantity"], r["probes"]) == (quantity, probes)]
        groups = [[row for row in rows if row["n"] == n] for n in counts]
        yield (
            QUANTITIES[quantity],
            f"{probes:.0f}" if probes else "exact",
            str(max(map(len, groups))),
            *map(_held, groups),
        )


def _held(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    held = sum(row["held"] for row in rows) / sum(row["draws"] for row in rows)
    told = statistics.fmean(row["told"] / row["spread"] for row in rows)
    return f"{held:.1%}, {told:.2f}"


def _planned(plans: Sequence[Row]) -> Iterable[Sequence[str]]:
    yield (
        "network",
        "quantity",
        "asked",
        "`--rtol`: images",
        "near",
        "`--how-many`: images",
        "near",
    )
    for row in plans:
        yield (
            f"{row['arch']}, {DATA.get(row['dataset'], row['dataset'])}",
            QUANTITIES[row["quantity"]],
            f"{row['rtol']:.0%}",
            f"{row['stopped_at']:.0f}",
            f"{row['stopped_near'] / row['draws']:.1%}",
            f"{row['planned']:.0f}",
            f"{row['planned_near'] / row['draws']:.1%}",
        )


def fitted_rows(
    fitted: Sequence[Row],
) -> Iterable[tuple[str, str, str, float, list[Row], Row]]:
    """Draws of a fitted number, and the row of all images, by network and images."""
    names = "arch", "dataset", "quantity"
    for key in dict.fromkeys(tuple(row[n] for n in names) for row in fitted):
        rows = [row for row in fitted if tuple(row[n] for n in names) == key]
        (whole,) = (row for row in rows if row["draw"] < 0)
        for n in sorted({row["n"] for row in rows if row["draw"] >= 0}):
            drawn = [r for r in rows if r["n"] == n and r["draw"] >= 0]
            yield *key, n, drawn, whole


def _maxima(fitted: Sequence[Row]) -> Iterable[Sequence[str]]:
    yield "network", "number", "images", "draws", "as found", "bias taken off", "held"
    for arch, dataset, quantity, n, drawn, whole in fitted_rows(fitted):
        if quantity not in FITTED:
            continue
        truth = whole["value"]
        raw = statistics.fmean(r["value"] + r["bias"] for r in drawn) / truth
        value = statistics.fmean(r["value"] for r in drawn) / truth
        held = sum(r["low"] <= truth <= r["high"] for r in drawn)
        yield (
            f"{arch}, {DATA.get(dataset, dataset)}",
            TITLES[column_of(quantity)],
            f"{n:.0f}",
            str(len(drawn)),
            f"{raw:.2f}",
            f"{value:.2f}",
            f"{held} of {len(drawn)}",
        )


def draw(networks: Sequence[Row], means: Sequence[Row]) -> "Figure":
    """Relative standard error against images, axes for each network."""
    figure = new_figure()
    quantity = "tr_ggn"
    chosen = [row for row in networks if row["quantity"] == quantity]
    columns = min(2, len(chosen))
    lines = -(-len(chosen) // columns)
    figure.set_size_inches(max(3.6 * columns, 5.4), 2.7 * lines + 0.7)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    for axes, about in zip(grid.flat, chosen, strict=False):
        title = f"{about['arch']}, {DATA.get(about['dataset'], about['dataset'])}"
        axes.set_title(title)
        rows = [
            row
            for row in means
            if row["quantity"] == quantity
            and (row["arch"], row["dataset"]) == (about["arch"], about["dataset"])
        ]
        for index, probes in enumerate((0.0, 1.0, 4.0)):
            part = sorted(
                (r for r in rows if r["probes"] == probes), key=lambda r: r["n"]
            )
            n = [row["n"] for row in part]
            label = {0.0: "exact", 1.0: "a probe an image"}.get(probes, "four probes")
            style: dict[str, Any] = {"color": COLOURS[index], "markersize": 4}
            first = axes is grid[0, 0]
            axes.plot(
                n,
                [row["spread"] / row["truth"] for row in part],
                marker=MARKERS[index],
                linestyle="none",
                label=f"{label}, drawn" if first else None,
                **style,
            )
            axes.plot(
                n,
                [theory(about, x, probes) for x in n],
                linestyle=DASHES[index],
                label=f"{label}, theory" if first else None,
                **style,
            )
        set_log(axes, "x", "y")
        axes.set_xlabel("images")
    for axes in grid[:, 0]:
        axes.set_ylabel("standard error / tr GGN")
    add_legend(figure)
    return figure


def theory(about: Row, n: float, probes: float) -> float:
    """The relative standard error that the two variances give."""
    data = about["of_images"] / n * (1 - n / about["images"])
    return math.sqrt(data + (about["of_probes"] / (n * probes) if probes else 0.0))
