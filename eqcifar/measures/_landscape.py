"""The loss on a line and on a plane through the network."""

import dataclasses
import textwrap
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..figures import add_legend
from ._measure import Column, Measure, Picture
from ._picture import band, line

if TYPE_CHECKING:
    from ..sharpness import Measured, Task

_REACH = 0.5
# On the axis of a line, and on each of a plane's: a pass forward over the images each.
_POINTS = {1: 21, 2: 31}


def _compute(task: "Task", name: str, count: int, eigen: bool) -> "Measured":
    """The loss on a line, or with a `count` of 2 on a plane, through the network.

    Along filter-normalised random directions, or the unit eigenvectors of the largest
    eigenvalues of the Hessian.
    """
    import jax

    from ..sharpness import Measured, as_direction, filter_normalised, landscape, page

    points = _POINTS[count]
    before, work = 0, points**count
    total = work
    if eigen:
        if task.network.size < count:
            raise UsageError("A plane takes two parameters at least; there is one.")
        before = task.work_to(task.pairs)
        total += before + task.work_of_draw(count)
        leading = task.leading("hess", "eigen-hess", task.pairs, 0, total)
        directions = [as_direction(task.network, v) for v in leading.vectors[:count]]
    else:
        leading, keys = None, jax.random.split(task.key, count)
        directions = [filter_normalised(task.network, key) for key in keys]
    with page(name, before=before, total=total):
        found = landscape(
            task.network,
            task.examples,
            directions,
            task.loss,
            reach=_REACH,
            points=points,
            target=task.target,
        )
    rises, halves = task.rises(name, directions, _REACH), None
    if leading is not None and task.is_sample:
        done = before + work
        halves = task.rises_of_halves(name, leading, count, _REACH, done, total)
    rise = task.fitted(float(rises.mean()), rises, halves)
    by_batch = task.network.batch_statistics
    curves = {
        "steps": found.steps.tolist(),
        "loss": found.loss.tolist(),
        "error": found.error.tolist(),
        "accuracy": found.accuracy.tolist(),
        "normalised by": "each batch" if by_batch else "running statistics",
    }
    table = "landscape" if name == "line" else name
    rise = dataclasses.replace(rise, matvecs=found.loss.size)
    return Measured({name: rise}, {}, {table: curves})


def _draw_line(
    figure: Any, tables: Mapping[str, Any], loss: str, found: Any, along: str
):
    import numpy as np

    axes = figure.add_subplot()
    for split, curve in tables.items():
        steps, values = np.array(curve["steps"]), np.array(curve["loss"])
        axes.plot(steps, values, **line(split, markersize=3))
        if "error" in curve:
            half = 1.96 * np.array(curve["error"])
            band(axes, split, steps, values - half, values + half)
    axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel=textwrap.fill(along, 52), ylabel=f"loss ({loss})")
    add_legend(figure)


def _draw_plane(
    figure: Any, tables: Mapping[str, Any], unit_of_loss: str, found: Any, along: str
):
    import numpy as np
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


def _has_interval(table: Mapping[str, Any]) -> bool:
    return "error" in table


def _measure(
    name: str, meaning: str, count: int, eigen: bool, along: str, column: str = ""
) -> Measure:
    draw = _draw_line if count == 1 else _draw_plane
    has_interval = _has_interval if count == 1 else lambda table: False
    column = column or name
    return Measure(
        name,
        {column: Column(f"mean rise of the {{loss}} loss at {meaning}", "{loss}")},
        partial(_compute, name=column, count=count, eigen=eigen),
        {name: Picture(partial(draw, along=along), has_interval=has_interval)},
    )


LANDSCAPE = _measure(
    "landscape",
    f"+-{_REACH:g} along a random filter-normalised direction",
    count=1,
    eigen=False,
    along="steps along a filter-normalised random direction (filter lengths)",
    column="line",
)
PLANE = _measure(
    "plane",
    f"(+-{_REACH:g}, +-{_REACH:g}) on two such directions, about {_REACH:g} sqrt 2 "
    "filter lengths away",
    count=2,
    eigen=False,
    along="steps along filter-normalised direction {} (filter lengths)",
)
EIGENLINE = _measure(
    "eigenline",
    f"+-{_REACH:g} along the leading eigenvector",
    count=1,
    eigen=True,
    along="distance along the leading eigenvector of each split's own Hessian "
    "(norm of parameters)",
)
# What each axis is, of the split that fills the blank.
EIGENPLANE = _measure(
    "eigenplane",
    f"(+-{_REACH:g}, +-{_REACH:g}) on the leading two, {_REACH:g} sqrt 2 away",
    count=2,
    eigen=True,
    along="distance along eigenvector {} of the {split} Hessian (norm of parameters)",
)
