import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..config import TrainConfig
from ..errors import UsageError
from ._grid import parse_values
from ._records import Record

DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
FIELDS = tuple(DEFAULTS)

# Allowed values by field.
Conditions = Mapping[str, Sequence[Any]]


def field_of(record: Record, name: str) -> Any:
    """A field of a run's configuration."""
    return record.seed if name == "seed" else getattr(record.recipe, name)


def check_field(name: str) -> str:
    """The name, if a configuration has such a field.

    **Raises:**

    `UsageError` with the nearest field.
    """
    if name not in DEFAULTS:
        near = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"a run has no option {name!r}{hint}")
    return name


def parse_conditions(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Read conditions such as "arch=vgg,resnet18", "mixup=0" and "seed=0-3".

    **Raises:**

    `UsageError` for what is no field or not of its type.
    """
    conditions: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = check_field(name.strip().replace("-", "_"))
        if not equals:
            raise UsageError(f"{text!r} has no value: write {name}=VALUE")
        allowed = parse_values(name, values)
        conditions.setdefault(name, []).extend(
            tuple(value) if isinstance(value, list) else value for value in allowed
        )
    return conditions


def parse_baseline(text: str) -> dict[str, Any]:
    """Read the fields of a baseline, such as "arch=vgg,mixup=0".

    **Raises:**

    `UsageError` as `parse_conditions`, and for more than one value of a field.
    """
    conditions = parse_conditions(re.split(r",(?=[\w-]+=)", text))
    for name, values in conditions.items():
        if len(values) > 1:
            raise UsageError(f"the baseline {text!r} has several values of {name}")
    return {name: values[0] for name, values in conditions.items()}


def keep(records: Iterable[Record], conditions: Conditions) -> list[Record]:
    """The records that meet all conditions; of a dataset's, the last part is enough.

    **Raises:**

    `UsageError` when none does, with the values that there are.
    """
    records = list(records)
    for name, allowed in conditions.items():
        kept = [
            record
            for record in records
            if field_of(record, name) in allowed
            or (
                name == "dataset" and os.path.basename(record.recipe.dataset) in allowed
            )
        ]
        if not kept:
            present = sorted({show_field(field_of(record, name)) for record in records})
            wanted = ",".join(map(show_field, allowed))
            some = ", ".join(present[:10]) + (", ..." if len(present) > 10 else "")
            raise UsageError(f"no run has {name}={wanted}; there are: {some}")
        records = kept
    return records


def show_field(value: Any) -> str:
    """A field's value as conditions are written."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(show_field, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)
