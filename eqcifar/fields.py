import dataclasses
import difflib
import re
import shlex
from collections.abc import Iterable
from typing import Any

from .config import TrainConfig
from .errors import UsageError

DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}


FIELDS = tuple(DEFAULTS)


# Stands for a field that a run does not have.
NOTHING = "–"


def check_field(name: str, fields: Iterable[str] = FIELDS) -> str:
    """The name, if it is one of the fields.

    **Raises:**

    `UsageError` with the nearest field.
    """
    fields = list(fields)
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"a run has no option {name!r}{hint}")
    return name


def natural(value: Any) -> Any:
    """A key to sort by: numbers in texts by their size, so that 8 is before 20."""
    if value is None:
        return (0,)
    if isinstance(value, str):
        parts = re.split(r"(\d+)", value)
        return 2, [int(part) if part.isdecimal() else part for part in parts]
    return 1, value


def show_field(value: Any) -> str:
    """A field's value as conditions are written."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(show_field, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def parse_values(name: str, text: str, example: Any = None) -> list[Any]:
    """The values in a text such as `vgg,resnet18`, `0,0.4`, `0-3,7` or `true,false`.

    **Arguments:**

    - `name`: the `TrainConfig` field, which decides how each is read.
    - `text`: values between commas; `0-3` is four whole numbers. The three numbers of
        `mean` and `std` have spaces between them.
    - `example`: a value of the kind that is read; by default the field's.

    **Raises:**

    `UsageError` with the name and the part that is no such value.
    """
    default = DEFAULTS.get(name) if example is None else example
    values = []
    for part in map(str.strip, text.split(",")):
        span = re.fullmatch(r"(\d+)-(\d+)", part) if type(default) is int else None
        if span:
            first, last = map(int, span.groups())
            if first > last:
                raise UsageError(f"{name} = {part}: must rise")
            values += range(first, last + 1)
        elif isinstance(default, tuple):
            values.append([_parse(name, x, float) for x in part.split()])
        else:
            values.append(_parse(name, part, type(default)))
    return values


def _parse(name: str, part: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[part.lower()]
        if part and kind in (int, float):
            return kind(part)
    except (ValueError, KeyError):
        pass
    if not part or kind in _KINDS:
        kind_name = _KINDS.get(kind, "a value")
        raise UsageError(f"{name} = {part!r}: must be {kind_name}")
    return part


def train_arguments(recipe: TrainConfig) -> list[str]:
    """The options of `eqcifar train` for a configuration, without the seed.

    They name what is not the default, so that they hold for the version of the package
    that the run is made with.
    """
    words = ["--arch", recipe.arch, "--dataset", recipe.dataset]
    for name, default in DEFAULTS.items():
        value = getattr(recipe, name)
        if name in ("arch", "dataset", "seed") or value == default:
            continue
        words += option_words(name, value)
    return words


def option_words(name: str, value: Any) -> list[str]:
    """A field of a configuration as `eqcifar train` takes it."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    values = value if isinstance(value, tuple) else [value]
    return [f"--{option}", *map(str, values)]


def train_command(recipe: TrainConfig, seeds: Iterable[int]) -> str:
    """The command line that trains these seeds of a configuration.

    There is none for runs that were made in Python, see `Record.in_python`.
    """
    command = shlex.join(["eqcifar", "train", *train_arguments(recipe)])
    seeds = sorted(set(seeds))
    if len(seeds) == 1:
        return f"{command} --seed {seeds[0]}"
    each = " ".join(map(str, seeds))
    return f'for seed in {each}; do {command} --seed "$seed"; done'
