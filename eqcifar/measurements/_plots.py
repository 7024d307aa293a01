import os
from collections.abc import Mapping
from pathlib import Path

from ..extras import require
from ..figures import add_title, figure_style, new_figure, save_figure
from ..measures import MEASURES, Picture, unit_of_loss
from ..sharpness import Measured
from ._measured_network import MeasuredNetwork, SharpnessOptions


def check_plots():
    """Refuse to plot where that cannot be done, before anything is computed.

    **Raises:**

    `UsageError` naming the extra to install.
    """
    require("matplotlib", "plot", "--plot")


def plot_sharpness(
    trained: MeasuredNetwork,
    options: SharpnessOptions,
    found: Mapping[str, Mapping[str, Measured]],
) -> list[Path]:
    """Draw what was measured, as PNG and SVG beside the network's table.

    **Returns:**

    The files, named after the table and what they show.
    """
    check_plots()
    pictures = {k: p for m in MEASURES.values() for k, p in m.pictures.items()}
    kinds = [t for ms in found.values() for m in ms.values() for t in m.tables]
    files = []
    for kind in dict.fromkeys(kinds):
        if kind not in pictures:
            continue
        picture = pictures[kind]
        having = {
            split: measured
            for split, measures in found.items()
            for measured in measures.values()
            if kind in measured.tables
        }
        tables = {split: measured.tables[kind] for split, measured in having.items()}
        with figure_style():
            figure = new_figure()
            loss = unit_of_loss(trained.loss_name(options))
            picture.draw(figure, tables, loss, found)
            title = _title(trained, options, picture, having)
            if not all(map(picture.has_interval, tables.values())):
                title += ", of these very images: no interval"
            add_title(figure, title)
        for suffix in ("png", "svg"):
            path = trained.table.with_name(f"{trained.table.stem}_{kind}.{suffix}")
            save_figure(figure, path)
            files.append(path)
    return files


def _title(
    trained: MeasuredNetwork,
    options: SharpnessOptions,
    picture: Picture,
    having: Mapping[str, Measured],
) -> str:
    """The network, what was measured of it, on how many images and in which mode."""
    images = " and ".join(
        f"{max(e.examples for e in measured.values.values())} {split}"
        for split, measured in having.items()
    )
    config, name = trained.config, trained.dataset.name
    if os.path.isabs(name):
        name = os.path.basename(name)
    mark = "SYNTHETIC: " if trained.dataset.synthetic else ""
    what = f"mean {trained.loss(options)}" if picture.of_loss else "NTK"
    mode = "each batch" if options.batch_statistics else "running statistics"
    return (
        f"{mark}{config.arch}, width {config.width:g}, seed {config.seed}, {name}\n"
        f"{what} on {images} images\nBatchNorm by {mode}"
    )
