import os
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import require
from ..figures import (
    add_legend,
    add_title,
    figure_style,
    new_figure,
    save_figure,
    set_log,
)
from ..meanings import unit
from ..sharpness import Measured
from ._measured_network import SharpnessOptions, Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Of Okabe and Ito: told apart by the colour-blind, and by their lines in print.
_STYLES = {
    "train": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "test": {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    "val": {"color": "#009E73", "linestyle": ":", "marker": "^"},
}


# More parameter arrays than that have no room for their names.
_MOST_LAYERS = 15


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
    check_plots()
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
        with figure_style():
            figure = new_figure()
            unit_of_loss = unit("sam", subject.loss_name(options))
            if kind in _PLANES:
                _plane(figure, tables, _PLANES[kind], unit_of_loss)
            else:
                axes = figure.add_subplot()
                _DRAW[kind](axes, tables, unit_of_loss)
                if kind == "spectrum":
                    _mark_eigenvalues(axes, found)
                add_legend(figure)
            add_title(figure, _title(subject, options, kind, having))
        for suffix in ("png", "svg"):
            path = subject.table.with_name(f"{subject.table.stem}_{kind}.{suffix}")
            save_figure(figure, path)
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
    config, name = subject.config, subject.dataset.name
    if os.path.isabs(name):
        name = os.path.basename(name)
    mark = "SYNTHETIC: " if subject.dataset.synthetic else ""
    # The NTK knows no loss.
    what = "NTK" if kind == "gram" else f"mean {subject.loss(options)}"
    mode = "each batch" if options.batch_statistics else "running statistics"
    return (
        f"{mark}{config.arch}, width {config.width:g}, seed {config.seed}, {name}\n"
        f"{what} on {images} images\nBatchNorm by {mode}"
        + ("" if _has_interval(kind, having) else ", of these very images: no interval")
    )


def _has_interval(kind: str, having: Mapping[str, Measured]) -> bool:
    if kind in ("convergence", "layers", "spectrum"):
        return True
    if kind not in ("landscape", "eigenline"):
        return False
    return all("error" in measured.tables[kind] for measured in having.values())


def _line(split: str, **changes: Any) -> dict[str, Any]:
    return {**_STYLES[split], "label": split, **changes}


def _convergence(axes: Any, tables: dict[str, list[dict[str, Any]]], loss: str):
    for split, rows in tables.items():
        n, value, half = (
            np.array([row[key] for row in rows], dtype=float)
            for key in ("name", "value", "half")
        )
        axes.plot(n, value, **_line(split, marker=None))
        _band(axes, split, n, value - half, value + half)
    # The first intervals, of two or three images, would hide all the others.
    last = [rows[-1]["value"] for rows in tables.values()]
    shown = [r for rows in tables.values() for r in rows if r["name"] >= 10]
    ends = [r["value"] + sign * r["half"] for r in shown for sign in (-1, 1)]
    axes.set_ylim(max(0.95 * min(ends + last), 0), 1.05 * max(ends + last) or 1.0)
    axes.set(
        xlim=(0, None),
        xlabel="images",
        ylabel=f"tr_ggn, 95 % band\n({loss} / parameter²)",
    )


def _band(axes: Any, split: str, x: Any, low: Any, high: Any):
    color = _STYLES[split]["color"]
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def _layers(axes: Any, tables: dict[str, list[dict[str, Any]]], loss: str):
    height = 0.8 / len(tables)
    shares = {s: {r["name"]: r for r in rows} for s, rows in tables.items()}
    all_names = list(next(iter(shares.values())))

    def largest(name: str) -> float:
        values = [rows[name]["share"] for rows in shares.values() if name in rows]
        return max(np.nan_to_num(values))

    chosen = set(sorted(all_names, key=largest, reverse=True)[:_MOST_LAYERS])
    # In the order of the network.
    names = [name for name in all_names if name in chosen]
    for index, (split, rows) in enumerate(shares.items()):
        half = np.array([rows[name]["share_half"] for name in names])
        axes.barh(
            np.arange(len(names)) + index * height,
            [rows[name]["share"] for name in names],
            height,
            # Of a vanished trace there are no shares.
            xerr=np.where(np.isfinite(half), half, 0.0),
            color=_STYLES[split]["color"],
            hatch="" if index == 0 else "//",
            edgecolor="white",
            error_kw={"elinewidth": 1, "capsize": 2},
            label=split,
        )
    axes.set_yticks(
        np.arange(len(names)) + 0.4 - height / 2,
        [name.lstrip(".") for name in names],
        fontsize=8,
    )
    axes.figure.set_size_inches(4.6, max(3.8, 0.26 * len(names) + 1.6))
    axes.invert_yaxis()
    left = len(all_names) - len(names)
    others = f" (the {left} smallest of {len(all_names)} not shown)" if left else ""
    axes.set(
        xlim=(0, None),
        xlabel=textwrap.fill(
            f"share of tr_ggn, all sum to 1, 95 % intervals{others}", 46
        ),
    )


def _spectrum(axes: Any, tables: Tables, loss: str):
    floor = 1e-7
    for split, curve in tables.items():
        grid = np.array(curve["grid"])
        low, density, high = (
            np.maximum(curve[key], floor) for key in ("low", "density", "high")
        )
        label = f"{split}, σ = {curve['width']:.2g}"
        axes.plot(grid, density, **_line(split, marker=None, label=label))
        _band(axes, split, grid, low, high)
    set_log(axes, "y")
    axes.set(
        ylim=(floor, None),
        xlabel=f"eigenvalue of the Hessian ({loss} / parameter²)",
        ylabel="density (1 / eigenvalue), 95 % band,\nby a Gaussian of width σ",
    )


def _mark_eigenvalues(axes: Any, found: Mapping[str, Mapping[str, Measured]]):
    # Single eigenvalues, where they were measured too, stand below the density.
    for split, measures in found.items():
        values = [
            (name, estimate.value)
            for measured in measures.values()
            for name, estimate in measured.values.items()
            if name == "lmax" or name.removeprefix("lambda_").isdigit()
        ]
        values = [v for v in values if v[0] != "lmax"] or values
        if values:
            axes.plot(
                [value for _, value in values],
                [3e-7] * len(values),
                **_line(
                    split,
                    linestyle="none",
                    markersize=5,
                    markeredgecolor="white",
                    label=f"{split}, largest {len(values)} by Lanczos",
                ),
            )


def _gram(axes: Any, tables: dict[str, list[float]], loss: str):
    for split, values in tables.items():
        # What is smaller comes of rounding.
        least = max(values, default=0.0) * np.finfo(np.float32).eps
        positive = np.array(values)[np.array(values) > least]
        rank = np.arange(1, len(positive) + 1)
        # Single values, and no curve.
        style = _line(split, linestyle="none", markersize=4, fillstyle="none")
        axes.plot(rank, positive, **style)
    set_log(axes, "x", "y")
    axes.set(xlabel="rank", ylabel="eigenvalue of the NTK\n(logits² / parameter²)")


def _landscape(axes: Any, tables: Tables, loss: str, along: str):
    for split, curve in tables.items():
        steps, values = np.array(curve["steps"]), np.array(curve["loss"])
        axes.plot(steps, values, **_line(split, markersize=3))
        if "error" in curve:
            half = 1.96 * np.array(curve["error"])
            _band(axes, split, steps, values - half, values + half)
    axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel=textwrap.fill(along, 52), ylabel=f"loss ({loss})")


def _plane(figure: "Figure", tables: Tables, along: str, unit_of_loss: str):
    from matplotlib.colors import LogNorm
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import NullLocator

    losses = {
        split: np.ma.masked_invalid(np.maximum(curve["loss"], 1e-12))
        for split, curve in tables.items()
    }
    low = min(loss.min() for loss in losses.values())
    high = max(loss.max() for loss in losses.values())
    # Common to the splits, so that their colours can be compared.
    levels = np.geomspace(low, max(high, 1.001 * low), 21)
    shown: Any = None
    # One above the other: side by side they are too small to read.
    figure.set_size_inches(4.6, 4.0 * len(tables) + 0.7)
    panes = figure.subplots(len(tables), 1, squeeze=False)[:, 0]
    for axes, (split, loss) in zip(panes, losses.items(), strict=True):
        steps = tables[split]["steps"]
        norm = LogNorm(levels[0], levels[-1])
        shown = axes.contourf(steps, steps, loss.T, levels, norm=norm, cmap="cividis")
        lines = axes.contour(
            steps, steps, loss.T, levels[2::4], colors="black", linewidths=0.7
        )
        halo = [withStroke(linewidth=2, foreground="white")]
        for text in axes.clabel(lines, fmt="%.3g", fontsize=8):
            text.set_path_effects(halo)
        (centre,) = axes.plot(
            *(0, 0), color="black", marker="X", markersize=8, linestyle="none"
        )
        centre.set_path_effects([withStroke(linewidth=3, foreground="white")])
        axes.set_title(f"{split} (cross: the network)")
        axes.grid(visible=False)
        axes.set(
            aspect="equal",
            xlabel=textwrap.fill(along.format(1, split=split), 34),
            ylabel=textwrap.fill(along.format(2, split=split), 32),
        )
    bar = figure.colorbar(
        *(shown,), ax=list(panes), ticks=levels[::4], format="%.3g", shrink=0.9
    )
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label(f"loss ({unit_of_loss}), logarithmic scale")


_DRAW: dict[str, Callable[[Any, Any, str], None]] = {
    "convergence": _convergence,
    "layers": _layers,
    "spectrum": _spectrum,
    "gram": _gram,
    "landscape": partial(
        _landscape,
        along="steps along a filter-normalised random direction (filter lengths)",
    ),
    "eigenline": partial(
        _landscape,
        along="distance along the leading eigenvector of each split's own Hessian "
        "(norm of parameters)",
    ),
}


# What each axis is, of the split that fills the blank.
_PLANES = {
    "plane": "steps along filter-normalised direction {} (filter lengths)",
    "eigenplane": "distance along eigenvector {} of the {split} Hessian (norm of "
    "parameters)",
}
