"""What the commands that read results have in common."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eqcifar.errors import UsageError

from ._measuring import locate
from ._output import print_warning

if TYPE_CHECKING:
    from eqcifar.results import Record, Table

Folder = Annotated[
    Path,
    typer.Argument(
        parser=locate,
        metavar="RESULTS",
        help="Folder of results; all runs below it. Or a run, hf://ORG/NAME too.",
    ),
]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="FIELD=VALUE",
        help="Count only these runs, such as arch=vgg,resnet18 or mixup=0; several "
        "filters all hold. Of a path, the end is enough.",
        show_default=False,
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        metavar="FIELDS",
        help="The fields that tell rows apart, such as arch,mixup; runs that differ in "
        "others are pooled. By default all that differ.",
        show_default=False,
    ),
]
Sort = Annotated[
    str | None,
    typer.Option(
        metavar="FIELD|METRIC",
        help="Sort by a field or a metric's mean; -METRIC from high to low.",
        show_default=False,
    ),
]
Select = Annotated[
    Literal["last", "train", "val", "test"],
    typer.Option(
        help="The epoch to take: the last, or that of highest accuracy on a split; "
        "the output says so."
    ),
]
Layout = Annotated[
    Literal["eqcifar", "original"],
    typer.Option(help="Whose folders: this project's, or sungyubkim/cifar_jax's."),
]


def read(
    folder: Path,
    layout: str,
    filters: list[str] | None,
    select: str = "last",
    warn: Callable[[str], None] = print_warning,
) -> "list[Record]":
    """The records of a folder; problems become a line each, by default on stderr."""
    from eqcifar import results

    readers = {"eqcifar": results.read_records, "original": results.read_original}
    records = readers[layout](folder, select=select, warn=warn)
    if not records:
        raise UsageError(f"no runs to read in {folder}")
    return results.filter_records(records, filters or [])


def choose_metrics(wanted: list[str], tables: "list[Table]") -> list[str]:
    """The metrics asked for, each found to be measured by some run."""
    from eqcifar import results

    names = dict.fromkeys(name for part in wanted for name in split_list(part))
    available = results.measured_columns(tables)
    for name in names:
        # While no run is done, nothing is measured yet.
        if available and name not in available:
            raise UsageError(
                f"no run has measured {name!r}; measured: {', '.join(available)}"
            )
    return list(names)


def split_list(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",")]


def for_stdout(text: str) -> str:
    """The text with only what the encoding of stdout can show."""
    from eqcifar import results

    try:
        "±–".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return text.translate(results.ASCII)
    return text
