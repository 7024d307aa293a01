import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import require
from ._files import replacing
from ._table import Table

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
    **{"figure.figsize": (5.6, 4.2), "figure.constrained_layout.use": True},
}


def new_figure(table: Table, title: str) -> "tuple[Figure, Axes]":
    """An empty figure and its axes, marked where the images are synthetic.

    **Raises:**

    `UsageError` without Matplotlib.
    """
    matplotlib = require("matplotlib", "plot", "plotting")
    # Without pyplot, which wants a display and keeps every figure.
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure()
        axes = figure.subplots()
        axes.set_title(f"SYNTHETIC: {title}" if table.synthetic else title)
    return figure, axes


def add_legend(figure: "Figure"):
    """Tell the lines' names below the axes, where no line is hidden by them."""
    where = {"loc": "outside lower center", "ncols": 2, "frameon": False}
    figure.legend(**where, fontsize=9, labelcolor=INK)


def save_figure(
    figure: "Figure",
    path: str | os.PathLike[str],
    *,
    text_as_paths: bool = True,
    transparent: bool = False,
):
    """Write a figure as its path's ending says, the same bytes each time.

    **Arguments:**

    - `figure`: from this module.
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
