from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require
from ..sharpness import Measured
from ._subject import SharpnessOptions, Subject

# Of Okabe and Ito: told apart by the colour-blind, and by their lines in print.
_STYLES = {
    "train": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "test": {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    "val": {"color": "#009E73", "linestyle": ":", "marker": "^"},
}

Tables = dict[str, dict[str, Any]]


def check_plots():
    """Refuse to plot where that cannot be done, before anything is computed.

    **Raises:**

    `UsageError` naming the extra to install.
    """
    require("matplotlib", "plot", "--plot")


def plot_sharpness(
    subject: Subject,
    options: SharpnessOptions,
    found: Mapping[str, Mapping[str, Measured]],
) -> list[Path]:
    """Draw what was measured, as PNG and SVG beside the subject's table.

    **Returns:**

    The files, named after the table and what they show.
    """
    require("matplotlib", "plot", "--plot")
    from matplotlib.figure import Figure

    kinds = [t for ms in found.values() for m in ms.values() for t in m.tables]
    files = []
    for kind in dict.fromkeys(kinds):
        if kind not in (*_DRAW, *_PLANES):
            continue
        having = {
            split: measured
            for split, measures in found.items()
            for measured in measures.values()
            if kind in measured.tables
        }
        tables = {split: measured.tables[kind] for split, measured in having.items()}
        panes = len(tables) if kind in _PLANES else 1
        figure = Figure(figsize=(5 * panes + 1, 4.6), layout="constrained")
        if kind in _PLANES:
            _plane(figure, tables, _PLANES[kind])
        else:
            axes = figure.add_subplot()
            _DRAW[kind](axes, tables)
            axes.legend(frameon=False)
        title = _title(subject, options, kind, having)
        figure.suptitle(title, fontsize="medium")
        for suffix in ("png", "svg"):
            path = subject.table.with_name(f"{subject.table.stem}_{kind}.{suffix}")
            figure.savefig(path, dpi=200)
            files.append(path)
    return files


def _title(
    subject: Subject,
    options: SharpnessOptions,
    kind: str,
    having: Mapping[str, Measured],
) -> str:
    """The network, what was measured of it, on how many images and in which mode."""
    images = " and ".join(
        f"{max(e.examples for e in measured.values.values())} {split}"
        for split, measured in having.items()
    )
    # The NTK knows no loss.
    what = "NTK" if kind == "gram" else f"mean {subject.loss(options)}"
    mode = "each batch" if options.batch_statistics else "running statistics"
    return (
        f"{subject.config.arch}, {subject.dataset.title}\n"
        f"{what} on {images} images\nBatchNorm by {mode}"
    )


def _line(split: str, **changes: Any) -> dict[str, Any]:
    return {**_STYLES[split], "label": split, **changes}


def _convergence(axes: Any, tables: dict[str, list[dict[str, Any]]]):
    for split, rows in tables.items():
        n, value, half = (
            np.array([row[key] for row in rows], dtype=float)
            for key in ("name", "value", "half")
        )
        axes.plot(n, value, **_line(split, marker=None))
        axes.fill_between(
            n,
            value - half,
            value + half,
            color=_STYLES[split]["color"],
            alpha=0.2,
            lw=0,
        )
    # The first intervals, of two or three images, would hide all the others.
    last = [rows[-1]["value"] for rows in tables.values()]
    shown = [r for rows in tables.values() for r in rows if r["name"] >= 10]
    ends = [r["value"] + sign * r["half"] for r in shown for sign in (-1, 1)]
    axes.set_ylim(max(min(ends + last), 0), max(ends + last) * 1.05)
    axes.set(xlim=(0, None), xlabel="images", ylabel="tr_ggn, 95 % band")


def _layers(axes: Any, tables: dict[str, list[dict[str, Any]]]):
    height = 0.8 / len(tables)
    names: list[str] = []
    for index, (split, rows) in enumerate(tables.items()):
        names = [row["name"] for row in rows]
        axes.barh(
            np.arange(len(names)) + index * height,
            [row["value"] for row in rows],
            height,
            xerr=[row["half"] for row in rows],
            color=_STYLES[split]["color"],
            hatch="" if index == 0 else "//",
            edgecolor="white",
            label=split,
        )
    axes.set_yticks(np.arange(len(names)), names, fontsize=5)
    axes.figure.set_size_inches(6, max(4, 0.14 * len(names)))
    axes.invert_yaxis()
    axes.set(xlabel="share of tr_ggn, 95 % interval")


def _spectrum(axes: Any, tables: Tables):
    floor = 1e-7
    for split, curve in tables.items():
        grid = np.array(curve["grid"])
        low, density, high = (
            np.maximum(curve[key], floor) for key in ("low", "density", "high")
        )
        label = f"{split}, σ = {curve['width']:.2g}"
        axes.plot(grid, density, **_line(split, marker=None, label=label))
        axes.fill_between(
            grid, low, high, color=_STYLES[split]["color"], alpha=0.2, lw=0
        )
    axes.set(
        yscale="log",
        ylim=(floor, None),
        xlabel="eigenvalue of the Hessian",
        ylabel="density smoothed by a Gaussian of width σ, 95 % band",
    )


def _gram(axes: Any, tables: dict[str, list[float]]):
    for split, values in tables.items():
        positive = np.array(values)[np.array(values) > 0]
        axes.plot(
            np.arange(1, len(positive) + 1), positive, **_line(split, marker=None)
        )
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="eigenvalue of the NTK")


def _landscape(axes: Any, tables: Tables, along: str):
    for split, curve in tables.items():
        axes.plot(curve["steps"], curve["loss"], **_line(split, ms=3))
    axes.set(xlabel=along, ylabel="loss")


def _plane(figure: Any, tables: Tables, along: str):
    from matplotlib.colors import LogNorm

    losses = {
        split: np.ma.masked_invalid(np.maximum(curve["loss"], 1e-12))
        for split, curve in tables.items()
    }
    low = min(loss.min() for loss in losses.values())
    high = max(loss.max() for loss in losses.values())
    # Common to the splits, so that their colours can be compared.
    levels = np.geomspace(low, max(high, 1.001 * low), 21)
    shown: Any = None
    panes = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, (split, loss) in zip(panes, losses.items(), strict=True):
        steps = tables[split]["steps"]
        norm = LogNorm(levels[0], levels[-1])
        shown = axes.contourf(steps, steps, loss.T, levels, norm=norm, cmap="cividis")
        axes.contour(steps, steps, loss.T, levels[::4], colors="black", linewidths=0.4)
        axes.set_title(split, fontsize="medium")
        axes.set(
            aspect="equal",
            xlabel=along.format(1, split=split),
            ylabel=along.format(2, split=split),
        )
    figure.colorbar(
        shown, ax=panes, ticks=levels[::4], format="%.3g", label="loss", shrink=0.9
    )


_DRAW: dict[str, Callable[[Any, Any], None]] = {
    "convergence": _convergence,
    "layers": _layers,
    "spectrum": _spectrum,
    "gram": _gram,
    "landscape": partial(
        _landscape, along="steps along a filter-normalised random direction"
    ),
    "eigenline": partial(
        _landscape,
        along="distance along the leading eigenvector of each split's own Hessian",
    ),
}
# What each axis is, of the split that fills the blank.
_PLANES = {
    "plane": "steps along filter-normalised direction {}",
    "eigenplane": "distance along eigenvector {} of the {split} Hessian",
}
