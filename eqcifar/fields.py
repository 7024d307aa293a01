"""The fields of a run, and the one way from their values to text and back."""

import dataclasses
import math
import re
import shlex
from collections.abc import Iterable
from typing import Any, get_origin

from .config import TrainConfig
from .errors import UsageError, unknown
from .options import typed, without_none

DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}


FIELDS = tuple(DEFAULTS)


# Stands for a field that a run does not have.
NOTHING = "–"


# Of one span, such as 0-3.
_MOST_VALUES = 100_000


_KINDS = {field.name: field.type for field in dataclasses.fields(TrainConfig)}


def check_field(name: str, fields: Iterable[str] = FIELDS) -> str:
    """The name, if it is one of the fields.

    **Raises:**

    `UsageError` with the nearest field.
    """
    fields = list(fields)
    if name not in fields:
        raise unknown("option", name, fields)
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
    """A field's value as text, of which `parse_field` makes the same value again."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(show_field, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def parse_field(name: str, text: str, kind: Any = None) -> Any:
    """The value of a field in a text, the inverse of `show_field`.

    **Arguments:**

    - `name`: of the field.
    - `text`: one value; numbers of a tuple have spaces between them.
    - `kind`: its type, by default that of the field of `TrainConfig`.

    **Returns:**

    A value of the type.

    **Raises:**

    `UsageError` with the name, the text and what is allowed.
    """
    kind = without_none(kind or _KINDS.get(name, str))
    if kind is str and not text:
        raise UsageError(f"{name} = {text!r}: must be a text")
    value = text.split() if get_origin(kind) is tuple else _read(text, kind)
    if isinstance(value, list):
        value = [_read(part, float) for part in value]
    return typed(name, kind, value)


def _read(text: str, kind: Any) -> Any:
    # What cannot be read is left as it is, for `typed` to refuse.
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text) if kind in (int, float) else text
    except ValueError:
        return text


def parse_values(name: str, text: str, kind: Any = None) -> list[Any]:
    """The values in a text such as `vgg,resnet18`, `0,0.4`, `0-3,7` or `true,false`.

    **Arguments:**

    - `name`: of the field.
    - `text`: values between commas, each as `parse_field` reads it; `0-3` is four
        whole numbers.
    - `kind`: the type of a value, by default that of the field of `TrainConfig`.

    **Returns:**

    The values in their order.

    **Raises:**

    `UsageError` with the name and the part that is no such value.
    """
    values = []
    for part in map(str.strip, text.split(",")):
        span = re.fullmatch(r"(\d{1,18})-(\d{1,18})", part)
        if span and (kind or _KINDS.get(name)) is int:
            first, last = map(int, span.groups())
            if first > last:
                raise UsageError(f"{name} = {part}: must rise")
            if last - first >= _MOST_VALUES:
                raise UsageError(f"{name} = {part}: at most {_MOST_VALUES:,} values")
            values += range(first, last + 1)
        else:
            values.append(parse_field(name, part, kind))
    return values


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
    """A field of a configuration as `eqcifar train` takes it, word by word."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    values = value if isinstance(value, tuple) else [value]
    return [f"--{option}", *map(show_field, values)]


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


def format_estimate(value: float, error: float) -> tuple[str, str]:
    """A value and its error, to two digits of the error."""
    if not math.isfinite(error) or error <= 0:
        return f"{value:.5g}", "0" if error == 0 else ""
    digits = 1 - math.floor(math.log10(error))
    if digits > 6 or abs(value) >= 1e9 or error >= 1e9:
        significant = max(math.floor(math.log10(abs(value) or error)) + digits, 1)
        return f"{value:.{min(significant, 9)}e}", f"{error:.1e}"
    digits = max(digits, 0)
    return f"{value:.{digits}f}", f"{error:.{digits}f}"
