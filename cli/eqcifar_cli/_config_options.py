import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from eqcifar.config import TrainConfig, read_values
from eqcifar.errors import UsageError

from ._field_options import SHORT, field_options, flags, located

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
    the command's first argument. The second is a `RunOptions`; others stay options.
    """
    return field_options(command, _option, ("config_file", _ConfigFile), _build)


def _build(
    recipe: dict[str, Any], file: Path | None, given: dict[str, Any]
) -> TrainConfig:
    from_file = {} if file is None else _read(file)
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
    }
    try:
        config = TrainConfig.from_dict({**recipe, **from_file, **given})
    except UsageError as error:
        where = f"with --config {file}: " if file else ""
        raise UsageError(f"{where}{error}") from error
    return located(config)


def _option(field: dataclasses.Field) -> tuple[Any, Any, Any]:
    names = ["/".join(flags(field))]
    if field.name in SHORT:
        names.append(SHORT[field.name])
    choices = field.metadata.get("choices", ())
    if get_origin(field.type) is Literal:
        choices = get_args(field.type)
    metavar = "R G B" if get_origin(field.type) is tuple else "|".join(choices) or None
    about = typer.Option(
        *names,
        help=field.metadata["help"],
        metavar=metavar,
        rich_help_panel=field.metadata["panel"],
        autocompletion=_COMPLETIONS.get(field.name),
    )
    own = field.metadata.get("choices")
    return Literal[own] if own else field.type, field.default, about


def _complete_arch(incomplete: str) -> list[str]:
    from eqcifar import models

    return [name for name in models.ARCHITECTURES if name.startswith(incomplete)]


def _complete_dataset(incomplete: str) -> list[str]:
    names = "cifar10", "cifar100", "synthetic", "synthetic100"
    return [name for name in names if name.startswith(incomplete)]


_COMPLETIONS = {"arch": _complete_arch, "dataset": _complete_dataset}


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_values(path)
    except UsageError as error:
        raise UsageError(f"--config: {error}") from error
    if path.suffix == ".json" and isinstance(config := values.get("config"), dict):
        return config
    return values
