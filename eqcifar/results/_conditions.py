import re
from collections.abc import Iterable
from typing import Any

from ..errors import UsageError, unknown
from ..fields import DEFAULTS, FIELDS, check_field, natural, parse_values, show_field
from ._records import Record

# What stands before each part of a long name, whose end is enough.
_MARKS = {"dataset": "/", "arch": "."}


def field_of(record: Record, name: str) -> Any:
    """A field of a run's configuration, or of what was said of it in Python."""
    if name == "seed":
        return record.seed
    if name in DEFAULTS:
        return getattr(record.recipe, name)
    return record.about.get(name)


def fields_of(records: Iterable[Record]) -> tuple[str, ...]:
    """The fields of a configuration, then those of the runs' own."""
    own = dict.fromkeys(name for record in records for name in record.about)
    return *FIELDS, *own


def filter_records(records: Iterable[Record], filters: Iterable[str]) -> list[Record]:
    """The records that all filters let through.

    **Arguments:**

    - `records`: from `read_records`.
    - `filters`: such as "arch=vgg,resnet18", "mixup=0" and "seed=0-3". Several of one
        field add up. Of a folder of images and of a class, the end of its name is
        enough.

    **Returns:**

    Records in their order.

    **Raises:**

    `UsageError` for what is no field, for a value that no run has, with those that
    there are, and when no run is left.
    """
    records = list(records)
    fields = fields_of(records)
    allowed: dict[str, list[Any]] = {}
    for text in filters:
        name, values = _split(text, fields)
        present = {field_of(record, name) for record in records}
        allowed.setdefault(name, []).extend(_matching(name, values, present))
    kept = [
        record
        for record in records
        if all(field_of(record, name) in values for name, values in allowed.items())
    ]
    if records and not kept:
        raise UsageError(f"no run has {' and '.join(filters)}, though some have each")
    return kept


def parse_baseline(text: str, records: Iterable[Record]) -> dict[str, Any]:
    """The fields of a baseline among runs, such as "arch=vgg,mixup=0".

    **Arguments:**

    - `text`: conditions between commas.
    - `records`: whose values a condition may name.

    **Returns:**

    Values by field.

    **Raises:**

    `UsageError` for what is no field and not of its type, and for more than one value
    of a field.
    """
    records = list(records)
    conditions = {}
    for part in re.split(r",(?=[\w-]+=)", text):
        name, values = _split(part, fields_of(records))
        parsed = _parse(name, values, {field_of(record, name) for record in records})
        if len(parsed) > 1 or name in conditions:
            raise UsageError(f"the baseline {text!r} has several values of {name}")
        conditions[name] = parsed[0][1][0]
    return conditions


def _split(text: str, fields: Iterable[str]) -> tuple[str, str]:
    name, equals, values = text.partition("=")
    name = check_field(name.strip().replace("-", "_"), fields)
    if not equals:
        raise UsageError(f"{text!r} has no value: write {name}=VALUE")
    return name, values


def _matching(name: str, values: str, present: set[Any]) -> list[Any]:
    # Of the values that runs have, those that are asked for.
    found = []
    for part, wanted in _parse(name, values, present):
        matching = [
            value
            for value in present
            if value in wanted
            or (name in _MARKS and value.endswith(f"{_MARKS[name]}{part}"))
        ]
        if not matching:
            shown = map(show_field, sorted(present, key=natural))
            raise unknown(f"{name} of these runs", part, shown)
        found += matching
    return found


def _parse(name: str, text: str, present: set[Any]) -> list[tuple[str, list[Any]]]:
    """Each part between commas, and the values that it stands for."""
    shown = {show_field(value): value for value in present}
    if text in shown:
        return [(text, [shown[text]])]
    kind = None if name in DEFAULTS else _kind(present)
    parsed = []
    for part in map(str.strip, text.split(",")):
        if part in shown:
            parsed.append((part, [shown[part]]))
        elif "=" in part:
            raise UsageError(
                f"{part!r} is no value of {name}: give each field by itself, as in "
                f"-f {name}=... -f {part}"
            )
        else:
            parsed.append((part, parse_values(name, part, kind)))
    return parsed


def _kind(present: set[Any]) -> type:
    # What the values of a field of one's own are: of numbers, those with a point.
    kinds = {type(value) for value in present if value is not None}
    if kinds == {int, float}:
        return float
    return kinds.pop() if len(kinds) == 1 else str
