import dataclasses
import inspect
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from eqcifar.config import TrainConfig
from eqcifar.errors import UsageError
from eqcifar.recipes import RECIPES, recipe_options

Recipe = Annotated[
    str,
    typer.Option(
        metavar="|".join(RECIPES),
        help="Named values for the options above; `fast` trains a good small network "
        "soon. A --config file and options given here win over it.",
        rich_help_panel="Run",
    ),
]

SHORT = {"arch": "-a", "dataset": "-d", "batch_size": "-b"}

_ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML file (or a run's config.json) with values for the options above, "
        "such as `batch_size = 500`. Options given here win over it.",
        rich_help_panel="Run",
        show_default=False,
    ),
]


def config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of `TrainConfig`, `--config`, `--recipe`.

    Command line, file, recipe, defaults, in that order, make the `TrainConfig` that is
    the command's first argument; its other parameters stay options.
    """
    fields = dataclasses.fields(TrainConfig)
    _, *own = inspect.signature(command).parameters.values()
    parameter = inspect.Parameter
    keyword = parameter.KEYWORD_ONLY
    parameters = [
        parameter("context", keyword, annotation=typer.Context),
        *(
            parameter(
                field.name,
                keyword,
                default=field.default,
                annotation=Annotated[field.type, _option(field)],  # pyright: ignore
            )
            for field in fields
        ),
        parameter("recipe", keyword, default="original", annotation=Recipe),
        parameter("config_file", keyword, default=None, annotation=_ConfigFile),
        *own,
    ]

    def with_config(
        *, context: typer.Context, recipe: str, config_file: Path | None, **values: Any
    ):
        from_recipe = recipe_options(recipe)
        from_file = {} if config_file is None else _read(config_file)
        given = {}
        for field in fields:
            value = values.pop(field.name)
            source = context.get_parameter_source(field.name)
            if source is not None and source.name == "COMMANDLINE":
                given[field.name] = list(value) if isinstance(value, tuple) else value
        try:
            config = TrainConfig.from_dict({**from_recipe, **from_file, **given})
        except UsageError as error:
            where = f"with --config {config_file}: " if config_file else ""
            raise UsageError(f"{where}{error}") from error
        command(config, **values)

    with_config.__signature__ = inspect.Signature(parameters)
    with_config.__doc__ = command.__doc__
    with_config.__name__ = command.__name__
    return with_config


def _option(field: dataclasses.Field) -> Any:
    flag = f"--{field.name.replace('_', '-')}"
    names = [flag, SHORT[field.name]] if field.name in SHORT else [flag]
    if field.type is bool:
        names = [f"{flag}/--no-{flag.removeprefix('--')}"]
    return typer.Option(
        *names,
        help=field.metadata["help"],
        metavar="R G B" if field.name in ("mean", "std") else None,
        rich_help_panel=field.metadata["panel"],
        autocompletion=_COMPLETIONS.get(field.name),
    )


def _complete_arch(incomplete: str) -> list[str]:
    from eqcifar import models

    return [name for name in models.names() if name.startswith(incomplete)]


def _complete_dataset(incomplete: str) -> list[str]:
    names = "cifar10", "cifar100", "synthetic", "synthetic100"
    return [name for name in names if name.startswith(incomplete)]


_COMPLETIONS = {"arch": _complete_arch, "dataset": _complete_dataset}


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror}") from error
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise UsageError(f"--config {path} is not valid {kind}: {error}") from error
    if path.suffix == ".json" and isinstance(values, dict):
        values = values.get("config", values)
    if not isinstance(values, dict):
        raise UsageError(f"--config {path} does not hold names and values")
    return values
