"""Measures of sharpness down, architectures and splits across."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..fields import NOTHING, show_field
from ..measures import meaning
from ._cells import show_conditions, show_summary
from ._columns import Column, group_equal, images_of, parse_column, show_range
from ._pivot import TextTable
from ._table import Group, Table

_ACROSS = "arch", "dataset"


def measures_table(table: Table, measures: Sequence[str]) -> TextTable:
    """Lay measures of sharpness out, with the number of images that each rests on.

    Measures with the same numbers in all runs share a row, and what no run has measured
    has none.

    **Arguments:**

    - `table`: from `tabulate`.
    - `measures`: columns of its records, from `sharpness_columns`.

    **Returns:**

    A `TextTable`: a row for each measure and for each value of what else tells groups
    apart, a column for each architecture, data set and split.
    """
    columns = [parse_column(measure) for measure in measures]
    across = [
        name
        for name in _ACROSS
        if name in table.fields
        and (name == "arch" or len({g.fields[name] for g in table.groups}) > 1)
    ]
    down = [name for name in table.fields if name not in _ACROSS]
    rows: dict[Any, dict[Any, Group]] = {}
    for group in table.groups:
        key = tuple(group.fields[name] for name in down)
        head = tuple(group.fields[name] for name in across)
        rows.setdefault(key, {})[head] = group
    heads = [
        (head, end)
        for head in dict.fromkeys(head for row in rows.values() for head in row)
        for end in dict.fromkeys(column.end for column in columns)
    ]
    joined = _join_equal(table, columns)
    lines = []
    for name, others in joined.items():
        for key, row in rows.items():
            cells = [
                _cell(row.get(head), name + end, name + end in measures)
                for head, end in heads
            ]
            if all(cell == NOTHING for cell in cells):
                continue
            images = {
                end: show_range(
                    images_of(record, name + end)
                    for group in row.values()
                    for record in group.done
                    if not math.isnan(record.values.get(name + end, math.nan))
                )
                for _, end in heads
            }
            shown = [" = ".join([name, *others]), *map(show_field, key)]
            lines.append([*shown, _show_all(images), *cells])
    titles = [
        ", ".join([*map(show_field, head), parse_column(f"x{end}").split])
        for head, end in heads
    ]
    shared = [
        f"{name}={show_field(table.groups[0].fields[name])}"
        for name in table.fields
        if name in _ACROSS and name not in across
    ]
    return TextTable(
        f"{'SYNTHETIC images: ' if table.synthetic else ''}sharpness after the last "
        f"epoch{f', {shared[0]}' if shared else ''}; mean ± sample standard deviation "
        f"({'runs' if table.pooled else 'seeds'}), se: standard error of the mean that "
        "measuring alone causes, and in parentheses how many runs",
        ["measure", *down, "images", *titles],
        lines,
        [f"All with {show_conditions(table.common)}."] if table.common else [],
    )


def _join_equal(table: Table, columns: Iterable[Column]) -> dict[str, list[str]]:
    # A measure's numbers on all splits, as if the splits were runs.
    columns = list(columns)
    ends = dict.fromkeys(column.end for column in columns)
    values = [
        {
            column.name: record.values.get(column.name + end, math.nan)
            for column in columns
        }
        for group in table.groups
        for record in group.done
        for end in ends
    ]
    names = list(dict.fromkeys(column.name for column in columns))
    return group_equal(names, values)


def _cell(group: Group | None, column: str, measured: bool) -> str:
    if group is None or not measured or not group.summary(column).count:
        return NOTHING
    return show_summary(group, column, 1)


def _show_all(images: dict[str, str]) -> str:
    counts = {end: text for end, text in images.items() if text}
    if len(set(counts.values())) <= 1:
        return next(iter(counts.values()), NOTHING)
    return ", ".join(
        f"{parse_column(f'x{end}').split} {text}" for end, text in counts.items()
    )


def legend(table: Table, measures: Iterable[str]) -> list[tuple[str, str]]:
    """What the names of measures mean, each meaning once.

    **Returns:**

    Names, several with commas, and a line about them; names without one are left out.
    """
    losses = sorted({record.recipe.loss for g in table.groups for record in g.records})
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(parse_column(measure).name for measure in measures):
        column = parse_column(name)
        text = meaning(column.base, column.loss or " or ".join(losses))
        if "_onehot" in name:
            text += "; of labels that are not smoothed"
        if name.endswith("_trainmode"):
            text += "; normalised by each batch"
        if text:
            found.setdefault(text, []).append(name)
    return [(_join(names), text) for text, names in found.items()]


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) < 2 else f"{names[0]} to {names[-1]}"
