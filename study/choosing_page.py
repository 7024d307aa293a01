"""The page on choosing a model by its sharpness, and its picture, from their tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eqcifar.figures import (
    INK,
    add_legend,
    draw_intervals,
    new_figure,
)
from eqcifar.sweeps import Grid

from . import tables
from .minima_rows import BASELINES, TITLES, configurations
from .tables import DATA, HERE, Row, how_made, markdown, read_about, read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLITS = "train", "test"
_NAMED = 4
SWEEPS = {"cifar10-jpeg": ("minima", "minima_steps"), "cifar100": ("minima",)}

_ALT = "Kendall's tau of each measure with test error, over all pairs and granulated"
_CAPTION = (
    "Kendall's τ of each measure with test error, measured on training and on test "
    "images: over all pairs of networks (left), and the mean over options of τ where "
    "only that option varies (right). Bars: 95 % intervals of a bootstrap over "
    "configurations with their seeds together and each measure drawn within its "
    "standard error. n as in the tables."
)
_NOTE = (
    "τ: Kendall's τ-b with test error, 1 where the sharper of two networks always has "
    "the greater error. Granulated: the mean over options of τ where only that option "
    "varies. Regret: test accuracy lost by taking the network of least measure, in "
    "points. Worth: choosing by accuracy on so many held-out images loses as much. "
    "Brackets: 95 % intervals. A measure on test images needs the very images whose "
    "labels would tell the accuracy; a norm needs none and stands under train."
)
_CRITIQUES = (
    "[Jiang et al. 2019](https://arxiv.org/abs/1912.02178) find PAC-Bayes measures of "
    "flatness among the best of 40 over thousands of networks. [Dziugaite et al. "
    "2020](https://arxiv.org/abs/2010.11924) show that no measure orders networks "
    "rightly in all environments, and that means over them hide it. [Andriushchenko et "
    "al. 2023](https://arxiv.org/abs/2302.07011) find that sharpness, adaptive or not, "
    "correlates with the learning rate rather than with generalisation, and with other "
    "signs in other settings."
)


def write_page():
    """Write the page and its picture."""
    tables.write_page(
        "choosing", made_page(), lambda: draw(read_table("minima_ranking"))
    )


def made_page() -> str:
    """The page that the tables make."""
    about = read_about("minima")
    return page(read_table("minima"), read_table("minima_ranking"), about)


def page(
    networks: Sequence[Row], ranking: Sequence[Row], about: Sequence[Mapping[str, Any]]
) -> str:
    """The page, from the tables."""
    parts = tables.opening(
        "Choosing a model", _answer(ranking), "choosing", _ALT, _CAPTION
    )
    for dataset in datasets(ranking):
        parts += [f"## {DATA.get(dataset, dataset)}", _size(networks, dataset)]
        parts += [markdown(_table(ranking, dataset))]
    parts += [_NOTE, "## Beside published studies", _CRITIQUES]
    parts += ["## Method", method(networks, about), "## Limits", _limits(networks)]
    return "\n\n".join(parts) + "\n"


def datasets(rows: Iterable[Row]) -> list[str]:
    """The data sets of rows, in the order of `DATA`."""
    there = {row["dataset"] for row in rows}
    return sorted(there, key=lambda name: ([*DATA, name].index(name), name))


def select(
    ranking: Iterable[Row], dataset: str, target: str = "test_error"
) -> list[Row]:
    """The rows of a data set and target, of the largest tau first."""
    rows = [r for r in ranking if (r["dataset"], r["target"]) == (dataset, target)]
    return sorted(rows, key=lambda row: -abs(row["tau"]))


def _answer(ranking: Sequence[Row]) -> str:
    lines = []
    for dataset in datasets(ranking):
        rows = [
            row
            for row in select(ranking, dataset)
            if row["split"] == "train" and row["measure"] not in BASELINES
        ]
        # Others are not of the same networks, and cannot be compared.
        most = max(row["networks"] for row in rows)
        rows = [row for row in rows if row["networks"] == most]
        sure = [row for row in rows if row["granulated_low"] > 0]
        against = [row for row in rows if row["granulated_high"] < 0]
        least = min(rows, key=lambda row: row["regret"])
        lines.append(
            f"- {DATA.get(dataset, dataset)}, n = {rows[0]['networks']:.0f} networks "
            f"of {rows[0]['configurations']:.0f} configurations: of {len(rows)} "
            "measures on training images, the granulated τ with test error is above 0 "
            f"for {len(sure)} and below 0 for {len(against)}, beyond 95 % intervals"
            f"{_names(sure, '; above: ')}{_names(against, '; below: ')}. Choosing by "
            f"the best of them with hindsight, {TITLES[least['measure']]}, loses "
            f"{100 * least['regret']:.1f} points of test accuracy, choosing at random "
            f"{100 * least['regret_at_random']:.1f}: it is worth "
            f"{_images(least['worth'])}."
        )
    lines.append(
        "- The column `worth` says how many held-out images each measure stands for: "
        "who has more of them to spare chooses better by their accuracy."
    )
    return "\n".join(lines)


def _names(rows: Sequence[Row], before: str) -> str:
    rows = sorted(rows, key=lambda row: -abs(row["granulated"]))
    names = ", ".join(TITLES[row["measure"]] for row in rows[:_NAMED])
    more = len(rows) - _NAMED
    names += f" and {more} others" if more > 0 else ""
    return f"{before}{names}" if names else ""


def _size(networks: Iterable[Row], dataset: str) -> str:
    rows = [row for row in networks if row["dataset"] == dataset]
    groups = configurations(rows)
    loss = sorted(row["loss_tr"] for row in rows)
    error = sorted(100 - 100 * row["acc_te"] for row in rows)
    reached = [row for row in rows if row["ended"] < row["epochs"]]
    return (
        f"n = {len(rows)} networks of {len(groups)} configurations; test error "
        f"{error[0]:.1f} to {error[-1]:.1f} %; training loss in inference mode "
        f"{loss[0]:.2g} to {loss[-1]:.2g}; {len(reached)} of them stopped at the loss "
        "that was asked for and the others at the last epoch."
    )


def _table(ranking: Sequence[Row], dataset: str) -> Iterable[Sequence[str]]:
    yield "measure", "split", "n", "τ", "granulated τ", "regret", "worth, images"
    for row in select(ranking, dataset):
        yield (
            TITLES[row["measure"]],
            row["split"],
            f"{row['networks']:.0f}",
            _ranged(row, "tau"),
            _ranged(row, "granulated"),
            _ranged(row, "regret", 100, ".1f"),
            _images(row["worth"], ""),
        )


def _ranged(row: Row, name: str, scale: float = 1.0, form: str = "+.2f") -> str:
    value, low, high = (scale * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if math.isnan(value):
        return ""
    around = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{around}"


def _images(count: float, unit: str = " held-out images") -> str:
    if math.isnan(count):
        return ""
    shown = "over 10,000" if math.isinf(count) else f"{float(f'{count:.2g}'):.0f}"
    return shown + unit


def method(networks: Sequence[Row], about: Sequence[Mapping[str, Any]]) -> str:
    """How networks were made and measured, for each page on them."""
    planned = sum(len(Grid.read(HERE / f"{n}.toml").configs()) for n in _files())
    machines = "; ".join(
        "; ".join([machine["hardware"], *machine["versions"]]) for machine in about
    )
    made = how_made(
        _files()[:2],
        "make study DATA=FOLDER DATA100=FOLDER    # of the images, or hub names",
    )
    return (
        f"{len(networks)} of the {planned} runs of `study/minima.toml` on both data "
        "sets and `study/minima_steps.toml` on CIFAR-10, whose other options are the "
        "defaults of `eqcifar train`; the command goes on with the others. "
        f"{networks[0]['samples']:.0f} images of each split are measured, the same for "
        f"all networks of a subset. {machines}.\n\n{made}"
    )


def _files() -> list[str]:
    return [name for names in SWEEPS.values() for name in names]


def _limits(networks: Sequence[Row]) -> str:
    images = sorted({int(row["images"]) for row in networks})
    return (
        "Small networks on a small part of the images "
        f"({' and '.join(f'{n:,}' for n in images)} of training), without "
        "augmentation, of few options with two values each: what orders these need not "
        "order others. Few configurations make wide intervals. Where networks did not "
        "reach the loss that was asked for, a measure may tell how far they were "
        "trained, as the row of the training loss shows. Choosing the best of many "
        "measures with hindsight flatters it. The JPEG copy is close to CIFAR-10 but "
        "not its pixels."
    )


def draw(ranking: Sequence[Row]) -> "Figure":
    """Tau of each measure: a row of axes for each data set."""
    figure, names = new_figure(), datasets(ranking)
    shown = {name: _measures(ranking, name) for name in names}
    height = sum(0.22 * len(each) + 0.7 for each in shown.values()) + 0.7
    figure.set_size_inches(7.2, height)
    grid = figure.subplots(
        len(names),
        2,
        sharey="row",
        squeeze=False,
        gridspec_kw={"height_ratios": [len(shown[name]) for name in names]},
    )
    for dataset, (left, right) in zip(names, grid, strict=True):
        for axes, kind in ((left, "tau"), (right, "granulated")):
            for index, split in enumerate(SPLITS):
                rows = [r for r in select(ranking, dataset) if r["split"] == split]
                first = axes is grid[0, 0]
                label = f"measured on {split} images" if first else None
                ends = f"{kind}_low", f"{kind}_high"
                draw_intervals(
                    axes,
                    (
                        (
                            *(row[name] for name in (kind, *ends)),
                            shown[dataset].index(row["measure"]) + 0.32 * (0.5 - index),
                        )
                        for row in rows
                        if row["measure"] in shown[dataset]
                    ),
                    index,
                    label,
                )
            axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
            axes.set(xlim=(-1.05, 1.05), ylim=(-0.7, len(shown[dataset]) - 0.3))
        titles = [TITLES[name] for name in shown[dataset]]
        left.set_yticks(range(len(titles)), titles, fontsize=8)
        left.set_title(DATA.get(dataset, dataset))
    grid[-1, 0].set_xlabel("τ with test error, all pairs")
    grid[-1, 1].set_xlabel("granulated τ with test error")
    add_legend(figure)
    return figure


def _measures(ranking: Sequence[Row], dataset: str) -> list[str]:
    rows = select(ranking, dataset)
    best = {
        row["measure"]: row["tau"] for row in rows[::-1] if row["split"] == SPLITS[0]
    }
    return sorted(best, key=best.__getitem__)
