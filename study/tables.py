"""Tables in `study/results`, in full precision, and tables of pages."""

import contextlib
import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqcifar.figures import figure_style, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGES = HERE.parent / "docs" / "measurements"

# What pages call the data in a folder, which may have another's pixels.
DATA = {
    "cifar10-jpeg": "CIFAR-10 (JPEG copy)",
    "cifar100": "CIFAR-100",
    "synthetic": "SYNTHETIC images",
}

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


def read_about(name: str) -> Any:
    """Where and with what the numbers of tables were made."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def write_page(name: str, text: str, draw: Callable[[], "Figure"]):
    """Write a page of the manual and its picture."""
    (PAGES / f"{name}.md").write_text(text)
    with figure_style():
        save_figure(draw(), PAGES / f"{name}.svg")
    print(f"wrote {name}.md and {name}.svg to {PAGES}")


def opening(title: str, answer: str, name: str, alt: str, caption: str) -> list[str]:
    """What a page on many minima begins with: the answer, then the picture."""
    made = "<!-- Made by `python -m study.minima page`: edit that. -->"
    return [f"# {title}", made, answer, f"![{alt}]({name}.svg)", caption]


def how_made(sweeps: Iterable[str], command: str) -> str:
    """Sweep files, and the command that trains and measures what they ask for."""
    files = ((HERE / f"{name}.toml").read_text().rstrip() for name in sweeps)
    blocks = [*(f"```toml\n{text}\n```" for text in files), f"```sh\n{command}\n```"]
    return "\n\n".join(blocks)


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
