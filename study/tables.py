"""Tables in `study/results`, in full precision, and tables of pages."""

import contextlib
import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGES = HERE.parent / "docs" / "measurements"

Row = dict[str, Any]


def write_table(name: str, rows: Sequence[Mapping[str, Any]]):
    """Write rows in full precision; what one has not is nan."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with open(RESULTS / f"{name}.tsv", "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(
            [row.get(column, math.nan) for column in columns] for row in rows
        )


def read_table(name: str) -> list[Row]:
    """The rows of a table that `write_table` wrote; cells that are no numbers as text.

    None where there is no such table.
    """
    if not (RESULTS / f"{name}.tsv").exists():
        return []
    with open(RESULTS / f"{name}.tsv", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [{column: _cell(cell) for column, cell in row.items()} for row in rows]


def renew_table(name: str, rows: Sequence[Mapping[str, Any]], key: Sequence[str]):
    """Write rows into a table; those that it has by another key stay."""
    there = {_key(row, key): row for row in read_table(name)}
    there |= {_key(row, key): row for row in rows}
    write_table(name, [there[at] for at in sorted(there, key=_order)])


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """A table of a page, whose first row is its head."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *body])


def _key(row: Mapping[str, Any], key: Sequence[str]) -> tuple[Any, ...]:
    # 1 and 1.0 are one value, here and in a file.
    return tuple(_cell(str(row.get(name, math.nan))) for name in key)


def _order(key: tuple[Any, ...]) -> list[tuple[bool, Any]]:
    return [(isinstance(part, str), part) for part in key]


def _cell(text: str) -> float | str:
    with contextlib.suppress(ValueError):
        return float(text)
    return text
