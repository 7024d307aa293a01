import dataclasses
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from eqcifar.config import TrainConfig
from eqcifar.recipes import RECIPES, recipe_options

from ._run_options import RunOptions

_RUN_FIELDS = dataclasses.fields(RunOptions)
FIELDS = dataclasses.fields(TrainConfig)
SHORT = {"arch": "-a", "dataset": "-d", "batch_size": "-b"}

_Recipe = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"Named values for the options above: {', '.join(RECIPES)}. `fast` trains "
        "a good small network soon on a CPU, `airbench96` a better one on a GPU. A "
        "file and options given here win over it.",
        rich_help_panel="Run",
    ),
]


def field_options(
    command: Callable[..., None],
    option: Callable[[dataclasses.Field], tuple[Any, Any, Any]],
    file: tuple[str, Any],
    build: Callable[[dict[str, Any], Path | None, dict[str, Any]], Any],
) -> Callable[..., None]:
    """Give a command options for `TrainConfig`, `RunOptions`, a recipe and a file.

    **Arguments:**

    - `command`: its first argument is what `build` makes, its second the `RunOptions`;
        the others stay options.
    - `option`: gives the type, the default and the `typer.Option` of a field.
    - `file`: the parameter of the file, and its annotation.
    - `build`: called with the fields of the recipe, with the file, and with the fields
        that the command line gives; later ones win.
    """
    _, _, *own = inspect.signature(command).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    file_name, file_type = file

    def parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty):
        return inspect.Parameter(name, keyword, default=default, annotation=kind)

    parameters = [parameter("context", typer.Context)]
    for field in FIELDS:
        kind, default, about = option(field)
        parameters.append(parameter(field.name, Annotated[kind, about], default))
    parameters += [
        parameter("recipe", _Recipe, "default"),
        parameter(file_name, file_type, None),
        *own,
        *(parameter(field.name, field.type, field.default) for field in _RUN_FIELDS),
    ]

    def with_fields(*, context: typer.Context, recipe: str, **values: Any):
        given = {}
        for field in FIELDS:
            value = values.pop(field.name)
            source = context.get_parameter_source(field.name)
            if source is not None and source.name == "COMMANDLINE":
                given[field.name] = value
        made = build(recipe_options(recipe), values.pop(file_name), given)
        options = {field.name: values.pop(field.name) for field in _RUN_FIELDS}
        command(made, RunOptions(**options), **values)

    with_fields.__signature__ = inspect.Signature(parameters)
    with_fields.__doc__ = command.__doc__
    with_fields.__name__ = command.__name__
    return with_fields


def flags(field: dataclasses.Field) -> list[str]:
    """The options of a field, `--batch-size`, or `--augment` and `--no-augment`."""
    name = field.name.replace("_", "-")
    return [f"--{name}", f"--no-{name}"] if field.type is bool else [f"--{name}"]


def located(config: TrainConfig) -> TrainConfig:
    """The same with the absolute path of a local folder of images.

    So that the data is found, and the run is the same, from any working folder.
    """
    if not os.path.isdir(os.path.expanduser(config.dataset)):
        return config
    # Here, for it imports JAX.
    from eqcifar import data

    return dataclasses.replace(config, dataset=data.locate(config.dataset))
