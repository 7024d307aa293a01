"""The configurations that `train` and `sweep` take: options, file, recipe, defaults."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from eqcifar.config import TrainConfig, read_values
from eqcifar.errors import UsageError
from eqcifar.recipes import RECIPES, recipe_options

from ._options import Reader

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
_GridFile = Annotated[
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


def _read_config(
    given: dict[str, Any], recipe: _Recipe = "default", config_file: _ConfigFile = None
) -> TrainConfig:
    from_file = {} if config_file is None else _read_file(config_file)
    try:
        config = TrainConfig.from_dict({**recipe_options(recipe), **from_file, **given})
    except UsageError as error:
        where = f"with --config {config_file}: " if config_file else ""
        raise UsageError(f"{where}{error}") from error
    return _located(config)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = read_values(path)
    except UsageError as error:
        raise UsageError(f"--config: {error}") from error
    if path.suffix == ".json" and isinstance(config := values.get("config"), dict):
        return config
    return values


def _read_grid(
    given: dict[str, str], recipe: _Recipe = "default", file: _GridFile = None
) -> list[TrainConfig]:
    from eqcifar.fields import parse_values
    from eqcifar.sweeps import Grid

    grid = Grid() if file is None else Grid.read(file)
    common = {name: [value] for name, value in recipe_options(recipe).items()}
    grid = Grid({**common, **grid.axes}, grid.entries)
    axes = {name: parse_values(name, text) for name, text in given.items()}
    configs = grid.replace(axes).configs()
    for config in configs:
        config.check_parts()
    return [_located(config) for config in configs]


def _located(config: TrainConfig) -> TrainConfig:
    # By the absolute path of a local folder, so that the data is found, and the run is
    # the same, from any working folder.
    if config.starts_from_file and not config.init.startswith("hf://"):
        start = os.path.abspath(os.path.expanduser(config.init))
        config = dataclasses.replace(config, init=start)
    if not os.path.isdir(os.path.expanduser(config.dataset)):
        return config
    # Here, for it imports JAX.
    from eqcifar import data

    return dataclasses.replace(config, dataset=data.locate(config.dataset))


Config = Annotated[TrainConfig, Reader(TrainConfig, _read_config)]
Configs = Annotated[list[TrainConfig], Reader(TrainConfig, _read_grid, many=True)]
