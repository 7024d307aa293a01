import os
from pathlib import Path

from ..figures import (
    COLOURS,
    DASHES,
    MARKERS,
    add_legend,
    add_title,
    figure_style,
    file_name,
    new_figure,
    save_figure,
)
from ..measures import unit_of_loss
from ._connect import Connection
from ._measured_network import MeasuredNetwork
from ._sharpness_table import check_plots


def plot_connection(
    first: MeasuredNetwork,
    second: MeasuredNetwork,
    found: Connection,
    folder: str | os.PathLike[str],
) -> list[Path]:
    """Draw loss and error on the line between two networks, as PNG and SVG.

    **Arguments:**

    - `first`, `second`, `found`: as for and from `connect`.
    - `folder`: takes the files.

    **Returns:**

    The files.

    **Raises:**

    `UsageError` without Matplotlib.
    """
    check_plots()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = first.config
    with figure_style():
        figure = new_figure()
        figure.set_size_inches(4.6, 5.6)
        upper, lower = figure.subplots(2, 1, sharex=True)
        for index, (name, line) in enumerate(found.lines.items()):
            style = {
                "color": COLOURS[index],
                "linestyle": DASHES[index],
                "marker": MARKERS[index],
                "markersize": 4,
            }
            rows = (
                (upper, line.loss, line.loss_error, 1.0),
                (lower, 1 - line.accuracy, line.accuracy_error, 100.0),
            )
            for axes, values, errors, scale in rows:
                half = 1.96 * scale * errors
                values = scale * values
                label = f"{name}, n = {line.examples}" if axes is upper else None
                axes.plot(found.points, values, label=label, **style)
                axes.fill_between(
                    *(found.points, values - half, values + half),
                    color=COLOURS[index],
                    alpha=0.2,
                    linewidth=0,
                )
        loss = unit_of_loss(config.loss)
        upper.set_ylabel(f"loss ({loss}), 95 % band")
        lower.set_ylabel("error (%), 95 % band")
        lower.set_xlabel("t of (1 - t) A + t B")
        mark = "SYNTHETIC: " if first.dataset.synthetic else ""
        seeds = f"seeds {config.seed} and {second.config.seed}"
        moved = f", {100 * found.moved:.0f} % of the second's channels moved"
        name = first.dataset.short_name
        add_title(
            upper, f"{mark}{config.arch}, {name}, {seeds}{moved if found.moved else ''}"
        )
        add_legend(figure)
    name = file_name(f"line from {first.path.name} to {second.path.name}")
    files = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    for path in files:
        save_figure(figure, path)
    return files
