"""What the pictures of measures have in common."""

from typing import Any

# Of Okabe and Ito: told apart by the colour-blind, and by their lines in print.
_STYLES = {
    "train": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "test": {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    "val": {"color": "#009E73", "linestyle": ":", "marker": "^"},
}


def style_of(split: str) -> dict[str, Any]:
    """Colour, line and marker of a split; of images of one's own, those of train."""
    return _STYLES.get(split, _STYLES["train"])


def line(split: str, **changes: Any) -> dict[str, Any]:
    """The arguments of a plotted line of a split, with its label."""
    return {**style_of(split), "label": split, **changes}


def band(axes: Any, split: str, x: Any, low: Any, high: Any):
    """Shade an interval in the colour of a split."""
    color = style_of(split)["color"]
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
