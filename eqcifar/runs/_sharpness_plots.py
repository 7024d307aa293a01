from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require
from ..sharpness import Measured
from ._subject import Subject

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
    subject: Subject, found: Mapping[str, Mapping[str, Measured]]
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
        if kind not in _DRAW:
            continue
        tables = {
            split: measured.tables[kind]
            for split, measures in found.items()
            for measured in measures.values()
            if kind in measured.tables
        }
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        _DRAW[kind](axes, tables)
        title = f"{subject.config.arch}, {subject.dataset.title}"
        axes.set_title(title, fontsize="medium")
        if kind not in ("plane", "eigenplane"):
            axes.legend(frameon=False)
        for suffix in ("png", "svg"):
            path = subject.table.with_name(f"{subject.table.stem}_{kind}.{suffix}")
            figure.savefig(path, dpi=200)
            files.append(path)
    return files


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
        axes.plot(grid, density, **_line(split, marker=None))
        axes.fill_between(
            grid, low, high, color=_STYLES[split]["color"], alpha=0.2, lw=0
        )
    axes.set(
        yscale="log",
        ylim=(floor, None),
        xlabel="eigenvalue of the Hessian",
        ylabel="density, 95 % band",
    )


def _gram(axes: Any, tables: dict[str, list[float]]):
    for split, values in tables.items():
        positive = np.array(values)[np.array(values) > 0]
        axes.plot(np.arange(1, len(positive) + 1), positive, **_line(split, ms=2))
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="eigenvalue of the NTK")


def _landscape(axes: Any, tables: Tables, along: str):
    for split, curve in tables.items():
        axes.plot(curve["steps"], curve["loss"], **_line(split, ms=3))
        axes.set_ylabel(f"loss, normalised by {curve['normalised by']}")
    axes.set_xlabel(along)


def _plane(axes: Any, tables: Tables, along: tuple[str, str]):
    split, curve = next(iter(tables.items()))
    loss = np.log10(np.maximum(curve["loss"], 1e-12)).T
    shown = axes.contourf(curve["steps"], curve["steps"], loss, 20, cmap="cividis")
    lines = axes.contour(
        curve["steps"], curve["steps"], loss, 8, colors="black", linewidths=0.4
    )
    axes.clabel(lines, fontsize=6)
    by = curve["normalised by"]
    axes.figure.colorbar(shown, label=f"log10 of the loss ({split}), by {by}")
    axes.set(aspect="equal", xlabel=along[0], ylabel=along[1])


_DRAW: dict[str, Callable[[Any, Any], None]] = {
    "convergence": _convergence,
    "layers": _layers,
    "spectrum": _spectrum,
    "gram": _gram,
    "landscape": partial(
        _landscape, along="steps along a filter-normalised random direction"
    ),
    "plane": partial(_plane, along=("first direction", "second direction")),
    "eigenline": partial(
        _landscape, along="distance along the leading eigenvector of the Hessian"
    ),
    "eigenplane": partial(_plane, along=("first eigenvector", "second eigenvector")),
}
