from pathlib import Path
from typing import Annotated, Literal

import typer

from ._output import say


def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a run, or a model file.", show_default=False
        ),
    ],
    form: Annotated[
        Literal["safetensors"], typer.Option("--format", help="What to write.")
    ] = "safetensors",
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A new folder, or one with an earlier export; by default `export` in "
            "the run's.",
            show_default=False,
        ),
    ] = None,
):
    """Write a trained network for others to use, with a model card.

    `eqcifar eval` and `eqcifar predict` read the file too.
    """
    from eqcifar import exchange

    folder = run if run.is_dir() else run.parent
    path = exchange.export_model(run, folder / "export" if to is None else to)
    say(f"Wrote {path} and its card, {path.with_name('README.md')}")
