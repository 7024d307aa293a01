import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from eqcifar.config import TrainConfig
from eqcifar.errors import UsageError
from eqcifar.recipes import recipe_options

from ._config_options import SHORT, Recipe

_FIELDS = dataclasses.fields(TrainConfig)

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

    They make the list of `TrainConfig` that is the command's first argument; its other
    parameters stay as they are.
    """
    _, *own = inspect.signature(command).parameters.values()
    parameter = inspect.Parameter
    keyword = parameter.KEYWORD_ONLY
    parameters = [
        parameter("context", keyword, annotation=typer.Context),
        *(
            parameter(
                field.name,
                keyword,
                default=_text(field.default),
                annotation=Annotated[str, _option(field)],
            )
            for field in _FIELDS
        ),
        parameter("recipe", keyword, default="original", annotation=Recipe),
        parameter("file", keyword, default=None, annotation=_File),
        *own,
    ]

    def with_grid(
        *, context: typer.Context, recipe: str, file: Path | None, **values: Any
    ):
        from eqcifar.runs import Grid, parse_values

        given = {}
        for field in _FIELDS:
            text = values.pop(field.name)
            source = context.get_parameter_source(field.name)
            if source is not None and source.name == "COMMANDLINE":
                given[field.name] = parse_values(field.name, text)
        grid = Grid() if file is None else Grid.read(file)
        common = {name: [value] for name, value in recipe_options(recipe).items()}
        grid = Grid({**common, **grid.axes}, grid.entries)
        command(grid.replace(given).configs(), **values)

    with_grid.__signature__ = inspect.Signature(parameters)
    with_grid.__doc__ = command.__doc__
    with_grid.__name__ = command.__name__
    return with_grid


def _option(field: dataclasses.Field) -> Any:
    names = [_flag(field.name)]
    if field.name == "seed":
        names = ["--seeds", *names]
    if field.name in SHORT:
        names.append(SHORT[field.name])
    return typer.Option(
        *names,
        help=field.metadata["help"],
        metavar=_METAVARS.get(type(field.default), "VALUE,..."),
        rich_help_panel=field.metadata["panel"],
    )


_METAVARS = {bool: "true,false", tuple: "'R G B,...'"}


def train_arguments(config: TrainConfig) -> list[str]:
    """The options of `eqcifar train` for a configuration; defaults are left out."""
    arguments = []
    for field in _FIELDS:
        value = getattr(config, field.name)
        always = field.name in ("arch", "dataset", "seed")
        if value == field.default and not always:
            continue
        if isinstance(value, bool):
            arguments.append(_flag(field.name if value else f"no_{field.name}"))
        elif isinstance(value, tuple):
            arguments += [_flag(field.name), *map(repr, value)]
        else:
            arguments += [_flag(field.name), str(value)]
    return arguments


def check_passed_on(arguments: list[str]):
    """Refuse what would make `eqcifar train` another run than the sweep expects."""
    taken = {_flag(field.name) for field in _FIELDS if field.type is not bool}
    taken |= {
        _flag(name)
        for field in _FIELDS
        if field.type is bool
        for name in (field.name, f"no_{field.name}")
    }
    taken |= {"--out", "--config", "--recipe"}
    if arguments and not arguments[0].startswith("-"):
        raise UsageError(
            f"unexpected {arguments[0]!r}: only options of `eqcifar train` can follow, "
            "after --"
        )
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag in taken or argument[:2] in (*SHORT.values(), "-o"):
            raise UsageError(f"{argument} after --: give it before, as the sweep's own")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
