"""Tables in `study/results`, in full precision."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGES = HERE.parent / "docs" / "measurements"

Row = dict[str, float]


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
    """The rows of a table that `collect` wrote."""
    with open(RESULTS / f"{name}.tsv", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [{column: float(cell) for column, cell in row.items()} for row in rows]
