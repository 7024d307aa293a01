import contextlib
import math
import os
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .extras import require
from .storage import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Text and axes; the page of a report puts its own colour in its place.
INK = "#010203"


# The colours of Okabe and Ito, which the colour-blind can tell apart, without the
# yellow that paper swallows. Lines and markers differ as well, for print in black.
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK


DASHES = "-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3))


MARKERS = "os^DvP*"


_STYLE = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}color": INK for part in ("edge", "label")},
    **{"grid.color": INK, "grid.alpha": 0.15, "axes.grid": True},
    **{"axes.spines.top": False, "axes.spines.right": False, "font.size": 10},
    **{"axes.titlesize": "medium", "figure.titlesize": "medium"},
    # Legible at half a column.
    **{"figure.figsize": (4.6, 3.8), "figure.constrained_layout.use": True},
    # A dollar sign in somebody's name of a data set begins no formula.
    **{"text.parse_math": False, "text.usetex": False},
}


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Draw in the colours and sizes that all figures have, and text as it stands.

    **Raises:**

    `UsageError` without Matplotlib.
    """
    matplotlib = require("matplotlib", "plot", "plotting")
    with matplotlib.rc_context(_STYLE):
        yield


def new_figure() -> "Figure":
    """An empty figure; to be called, and filled, within `figure_style`."""
    # Without pyplot, which wants a display and keeps every figure.
    from matplotlib.figure import Figure

    return Figure()


def add_title(where: "Figure | Axes", title: str):
    """Set a title, in lines that are not longer than the figure is wide."""
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, 54)]
    set_title = getattr(where, "suptitle", None) or where.set_title  # pyright: ignore
    set_title("\n".join(lines))


def add_legend(figure: "Figure"):
    """Tell the lines' names below the axes, where no line is hidden by them."""
    labels = [str(label) for axes in figure.axes for label in _labels(axes)]
    ncols = 2 if max(map(len, labels), default=0) <= 30 else 1
    where = {"loc": "outside lower center", "ncols": ncols, "frameon": False}
    figure.legend(**where, fontsize=9, labelcolor=INK)


def _labels(axes: "Axes") -> list[Any]:
    return axes.get_legend_handles_labels()[1]


def draw_intervals(
    axes: "Axes",
    intervals: Iterable[tuple[float, float, float, float]],
    index: int,
    label: str | None = None,
):
    """Draw points with horizontal bars in the colour and marker of an index.

    **Arguments:**

    - `intervals`: of each point its value, the ends of its interval, and its height. A
        value that is nan is left out; where an end is, there is no bar. An interval may
        begin beyond its value.
    - `label`: for the legend.
    """
    known = [each for each in intervals if not math.isnan(each[0])]
    if not known:
        return
    values, lows, highs, heights = zip(*known, strict=True)

    def bars(ends: Iterable[float], sign: int) -> list[float]:
        lengths = (sign * (end - x) for end, x in zip(ends, values, strict=True))
        return [0.0 if math.isnan(length) else max(length, 0.0) for length in lengths]

    axes.errorbar(
        values,
        heights,
        xerr=[bars(lows, -1), bars(highs, 1)],
        color=COLOURS[index],
        marker=MARKERS[index],
        markersize=4,
        linestyle="none",
        elinewidth=1,
        capsize=2,
        label=label,
    )


def set_log(axes: "Axes", *names: str):
    """Make the axes "x" and "y" logarithmic, and label them without formulas."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for name in names:
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        low, high = getattr(axes, f"get_{name}lim")()
        # Numbers beside each other take more room than above each other.
        if high < {"x": 20, "y": 1e3}[name] * low:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def save_figure(
    figure: "Figure",
    path: str | os.PathLike[str],
    *,
    text_as_paths: bool = True,
    transparent: bool = False,
):
    """Write a figure as its path's ending says, the same bytes each time.

    **Arguments:**

    - `figure`: drawn within `figure_style`.
    - `path`: a file to write.
    - `text_as_paths`: draw the letters in an SVG, which then looks alike everywhere.
    - `transparent`: without a white ground.

    **Raises:**

    `RunError` when it cannot be written.
    """
    matplotlib = require("matplotlib", "plot", "plotting")
    path = Path(path)
    kind = path.suffix.lstrip(".")
    options: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {}
    settings = {"svg.hashsalt": path.name}
    settings["svg.fonttype"] = "path" if text_as_paths else "none"
    with matplotlib.rc_context({**_STYLE, **settings}), replacing(path) as file:
        figure.savefig(file, format=kind, dpi=200, transparent=transparent, **options)


def file_name(name: str) -> str:
    """A figure's name without what a file's cannot have."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name).strip("._")
