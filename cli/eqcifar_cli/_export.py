from pathlib import Path
from typing import Annotated, Literal

import typer

from ._measuring import RunFolder
from ._output import say


def export(
    run: RunFolder,
    to: Annotated[
        Literal["eqcifar", "pytorch"],
        typer.Option(
            help="Whose names the tensors have: for PyTorch, those of the file that it "
            "was imported from, or of torchvision, xternalz and the like."
        ),
    ] = "eqcifar",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="A new folder, or one with an earlier export; by default `export` or "
            "`pytorch` in the run's.",
            show_default=False,
        ),
    ] = None,
):
    """Write a trained network for others to use, as safetensors with a model card.

    `eqcifar eval` and `eqcifar predict` read the file too, and `eqcifar import` one for
    PyTorch.
    """
    from eqcifar import exchange

    folder = run if run.is_dir() else run.parent
    usual = folder / ("pytorch" if to == "pytorch" else "export")
    path = exchange.export_model(run, usual if out is None else out, to=to)
    say(f"Wrote {path} and its card, {path.with_name('README.md')}")
