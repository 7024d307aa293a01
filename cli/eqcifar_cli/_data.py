from pathlib import Path
from typing import Annotated, Literal

import typer

from ._output import print_json, print_table

app = typer.Typer(
    no_args_is_help=True, help="Look at a dataset, or write it to a folder."
)

_Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="cifar10, cifar100, synthetic, synthetic100, a local folder, or org/name "
        "on the Hugging Face hub.",
        show_default=False,
    ),
]


@app.command()
def info(
    name: _Name,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
):
    """Show classes, images per class and split, image size, and pixel statistics."""
    import numpy as np

    from eqcifar import data

    dataset = data.load(name)
    counts = {
        split: np.bincount(part.labels, minlength=len(dataset.classes)).tolist()
        for split, part in dataset.splits.items()
    }
    _, height, width, _ = dataset.train.images.shape
    # From a histogram of each channel: the pixels of CIFAR as floats take 600 MB.
    levels = np.arange(256) / 255
    histograms = [
        np.bincount(dataset.train.images[..., channel].ravel(), minlength=256)
        for channel in range(3)
    ]
    mean = [float(np.average(levels, weights=histogram)) for histogram in histograms]
    std = [
        float(np.average((levels - centre) ** 2, weights=histogram) ** 0.5)
        for centre, histogram in zip(mean, histograms, strict=True)
    ]
    if as_json:
        print_json(
            {
                "name": dataset.name,
                "synthetic": dataset.synthetic,
                "height": height,
                "width": width,
                "images": {split: sum(counts[split]) for split in counts},
                "per_class": {
                    label: {split: counts[split][index] for split in counts}
                    for index, label in enumerate(dataset.classes)
                },
                "mean": mean,
                "std": std,
                "notes": dataset.notes,
                "cache": str(data.cache_folder()),
            }
        )
        return
    print_table(
        f"{dataset.title}: {len(dataset.classes)} classes, {height} x {width} pixels",
        ("class", *counts),
        [
            *(
                (label, *(str(counts[split][index]) for split in counts))
                for index, label in enumerate(dataset.classes)
            ),
            ("all", *(str(sum(counts[split])) for split in counts)),
        ],
    )

    def channels(values):
        return " ".join(f"{value:.4f}" for value in values)

    typer.echo("Training pixels in [0, 1], by channel (red, green, blue):")
    typer.echo(f"  mean {channels(mean)}")
    typer.echo(f"  std  {channels(std)}")
    if name not in ("synthetic", "synthetic100"):
        typer.echo(f"Decoded images are kept in {data.cache_folder()}")


@app.command()
def export(
    name: _Name,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="A new folder to write.", show_default=False
        ),
    ],
    form: Annotated[
        Literal["parquet", "disk"],
        typer.Option(
            help="parquet, as on the Hugging Face hub, or disk, as save_to_disk writes."
        ),
    ] = "parquet",
):
    """Write a dataset to FOLDER, which `--dataset FOLDER` and `datasets` can read."""
    from eqcifar import data

    dataset = data.load(name)
    written = data.export(dataset, folder, form=form)
    sizes = ", ".join(f"{len(part)} {split}" for split, part in dataset.splits.items())
    typer.echo(f"{dataset.title}: wrote {sizes} images to {written}")
