import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from eqcifar.config import TrainConfig
from eqcifar.errors import UsageError

from ._field_options import SHORT, field_options, flags, located

_File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="TOML file with values for the options above, common to all runs; lists "
        "in its table `grid` make every combination, tables `list` are what varies "
        "together. Options given here win over it.",
        rich_help_panel="Sweep",
        show_default=False,
    ),
]


def grid_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of `TrainConfig`, that takes many values.

    They make the list of `TrainConfig` that is the command's first argument. The second
    is a `RunOptions`; others stay options.
    """
    return field_options(command, _option, ("file", _File), _build)


def _build(
    recipe: dict[str, Any], file: Path | None, given: dict[str, str]
) -> list[TrainConfig]:
    from eqcifar.fields import parse_values
    from eqcifar.sweeps import Grid

    grid = Grid() if file is None else Grid.read(file)
    common = {name: [value] for name, value in recipe.items()}
    grid = Grid({**common, **grid.axes}, grid.entries)
    axes = {name: parse_values(name, text) for name, text in given.items()}
    configs = grid.replace(axes).configs()
    for config in configs:
        if config.has_own_loss:
            raise UsageError(
                f"loss = {config.loss!r}: a sweep trains by mse or ce; a function of "
                "your own is for `eqcifar.runs.train_run_with`"
            )
    return [located(config) for config in configs]


def _option(field: dataclasses.Field) -> tuple[Any, Any, Any]:
    names = flags(field)[:1]
    if field.name == "seed":
        names = ["--seeds", *names]
    if field.name in SHORT:
        names.append(SHORT[field.name])
    about = typer.Option(
        *names,
        help=field.metadata["help"],
        metavar=_METAVARS.get(type(field.default), "VALUE,..."),
        rich_help_panel=field.metadata["panel"],
    )
    return str, _text(field.default), about


_METAVARS = {bool: "true,false", tuple: "'R G B,...'"}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
