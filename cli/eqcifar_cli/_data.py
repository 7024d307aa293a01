from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from ._output import print_json, print_table, say
from ._program import Program

app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    help="Look at a dataset, or write it to a folder.",
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
    from eqcifar import data

    dataset = data.load(name)
    counts = data.class_counts(dataset)
    mean, std = data.channel_statistics(dataset.train)
    _, height, width, _ = dataset.train.images.shape
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

    say(
        "Training pixels in [0, 1], by channel (red, green, blue):\n"
        f"  mean {_numbers(mean)}\n  std  {_numbers(std)}"
    )
    if not dataset.synthetic:
        say(f"Decoded images are kept in {data.cache_folder()}")


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


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
    say(f"{dataset.title}: wrote {sizes} images to {written}")
