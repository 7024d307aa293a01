import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..fields import NOTHING, natural, show_field
from ..storage import COLUMNS, CONVENTION
from ._cells import (
    show_conditions,
    show_differences,
    show_images,
    show_seeds,
    show_summary,
    show_test,
    show_times,
)
from ._table import Group, Table

_CHOSEN = {
    "last": "after the last epoch",
    "train": "at the epoch of highest training accuracy (selected on the train split)",
    "val": "at the epoch of highest validation accuracy (selected on the val split)",
    "test": "at the epoch of highest test accuracy (SELECTED ON THE TEST SPLIT, so "
    "too high)",
}


_MOST_NOTES = 20


@dataclasses.dataclass(frozen=True)
class TextTable:
    """A table as text: a title, columns, rows, and notes to stand below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


def pivot(
    table: Table,
    metrics: Sequence[str],
    *,
    across: str | None = "dataset",
    ddof: int = 1,
    baseline: Mapping[str, Any] | None = None,
    select: str = "last",
) -> TextTable:
    """Lay a table out as the original's: architectures down, datasets across.

    **Arguments:**

    - `table`: from `tabulate`.
    - `metrics`: what to show; if there are several, each has a row.
    - `across`: a field of the table, or `None` to show all of them down.
    - `ddof`: as in `summarise`.
    - `baseline`: fields of the groups to compare the others with, see
        `check_baseline`.
    - `select`: how the epoch was selected, as in `read_records`.

    **Returns:**

    A `TextTable`. Cells give the number of runs in parentheses, and of how many when
    some are not done; the notes say which. Measures of sharpness come with the number
    of images that each rests on, and the notes name means over unlike measurements.
    """
    if across not in table.fields:
        across = None
    down = [name for name in table.fields if name != across]
    rows: dict[Any, dict[Any, Group]] = {}
    for group in table.groups:
        key = tuple(group.fields[name] for name in down)
        rows.setdefault(key, {})[group.fields[across] if across else ""] = group
    heads = sorted({head for row in rows.values() for head in row}, key=natural)
    measured = any(group.images(m) for group in table.groups for m in metrics)
    several = len(metrics) > 1
    columns = [*down, *(["measure"] if several else ())]
    alone = "value" if several else metrics[0]
    for head in heads:
        columns.append(show_field(head) if across else alone)
        if baseline is not None:
            where = f"{show_field(head)} " if across else ""
            columns.append(f"{where}against {show_conditions(baseline)}")
    return TextTable(
        _title(table, metrics, ddof, select),
        [*columns, *(["images"] if measured else ()), "time per model"],
        [
            [
                *map(show_field, key),
                *([metric] if several else ()),
                *(
                    cell
                    for head in heads
                    for cell in _cells(table, row.get(head), metric, ddof, baseline)
                ),
                *([show_images(row.values(), [metric])] if measured else ()),
                show_times(row.values()),
            ]
            for key, row in rows.items()
            for metric in metrics
        ],
        _notes(table, metrics, baseline),
    )


def _title(table: Table, metrics: Sequence[str], ddof: int, select: str) -> str:
    deviation = {0: "population standard deviation", 1: "sample standard deviation"}
    chosen = _CHOSEN[select]
    if select != "last" and not set(metrics) <= set(COLUMNS):
        chosen += ", but sharpness after the last"
    what = metrics[0] if len(metrics) == 1 else "measures"
    return (
        f"{'SYNTHETIC images: ' if table.synthetic else ''}{what} {chosen}; "
        f"mean ± {deviation[ddof]} ({'runs' if table.pooled else 'seeds'})"
    )


def _cells(
    table: Table,
    group: Group | None,
    metric: str,
    ddof: int,
    baseline: Mapping[str, Any] | None,
) -> list[str]:
    if group is None:
        return [NOTHING] * (1 if baseline is None else 2)
    cells = [show_summary(group, metric, ddof)]
    if baseline is not None:
        is_baseline = table.baseline(group, baseline) is group
        comparison = show_test(table.compare(group, metric, baseline), metric)
        cells.append("baseline" if is_baseline else comparison)
    return cells


def _notes(
    table: Table, metrics: Sequence[str], baseline: Mapping[str, Any] | None
) -> list[str]:
    notes = []
    if table.common:
        notes.append(f"All with {show_conditions(table.common)}.")
    if table.pooled:
        notes.append(f"Runs with different {', '.join(table.pooled)} are pooled.")
    if baseline is not None:
        tests = [
            comparison
            for group in table.groups
            for metric in metrics
            if (comparison := table.compare(group, metric, baseline))
        ]
        tested = sum(not math.isnan(comparison.p) for comparison in tests)
        notes.append(
            "Differences of means with 95 % intervals, Welch's t and two-sided p, "
            f"{tested} tests, not adjusted for their number."
        )
    errors = (g.standard_error(metric) for g in table.groups for metric in metrics)
    if not all(map(math.isnan, errors)):
        notes.append("se: standard error of the mean that measuring alone causes.")
    unlike: dict[str, list[str]] = {}
    for group in table.groups:
        for metric in metrics:
            if how := show_differences(group, metric):
                text = f"{show_conditions(group.fields)}: means over unlike "
                unlike.setdefault(f"{text}measurements, {how}", []).append(metric)
    notes += [f"{how}: {', '.join(names)}." for how, names in unlike.items()]
    for name in CONVENTION:
        # A loss that the table shows is no surprise.
        if name == "loss_name" and "loss" in table.fields:
            continue
        values = {
            dict(convention).get(name, NOTHING)
            for group in table.groups
            for metric in metrics
            for convention in group.conventions(metric)
        }
        if len(values) > 1:
            notes.append(
                f"Measured with different {name}: {', '.join(sorted(values))}."
            )
    lacking = []
    for group in table.groups:
        parts = [
            f"seed{'s' * (len(seeds) > 1)} {show_seeds(seeds)} {state}"
            for state in ("running", "interrupted", "failed", "unreadable", "missing")
            if (seeds := group.seeds(state))
        ]
        if parts:
            lacking.append(f"{show_conditions(group.fields)}: {'; '.join(parts)}.")
    if len(lacking) > _MOST_NOTES:
        rest = len(lacking) - _MOST_NOTES
        lacking[_MOST_NOTES:] = [f"and {rest} more are incomplete."]
    return [*notes, *lacking]
