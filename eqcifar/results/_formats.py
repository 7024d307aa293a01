import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..fields import DEFAULTS
from ..storage import STATES
from ._pivot import TextTable
from ._table import Table

# For an output that has no other characters.
ASCII = str.maketrans({"±": "+-", "–": "-"})


_STATES = *STATES, "missing"
# What a text begins with that a spreadsheet would compute.
_FORMULA = tuple("=+-@")


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"$<$",
        ">": r"$>$",
        "±": r"$\pm$",
        "–": "--",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def long_rows(
    tables: Iterable[Table],
    metrics: Sequence[str],
    *,
    ddof: int = 1,
    baseline: Mapping[str, Any] | None = None,
    select: str = "last",
) -> list[dict[str, Any]]:
    """A row for each group and metric, with everything in full precision.

    The arguments are those of `pivot`; rows of all tables have the same keys. `images`
    are the numbers of images that a measure rests on, `conventions` how it was taken.

    **Arguments:**

    - `tables`: from `tabulate`.
    - `metrics`: columns of the records.
    - `ddof`: of the standard deviation: 1 for that of a sample.
    - `baseline`: fields of the group that others are compared with, if any.
    - `select`: of which epoch the numbers are, as in `read_records`.

    **Returns:**

    A row for each group and metric, by column.
    """
    tables = list(tables)
    names = dict.fromkeys(name for table in tables for name in table.fields)
    rows = []
    for table in tables:
        common = {**DEFAULTS, **dict.fromkeys(table.pooled), **table.common}
        for group in table.groups:
            for metric in metrics:
                summary = group.summary(metric, ddof)
                row = {
                    **{
                        name: group.fields.get(name, common.get(name)) for name in names
                    },
                    "synthetic": table.synthetic,
                    "metric": metric,
                    "selected_on": select,
                    "mean": summary.mean,
                    "std": summary.std,
                    "count": summary.count,
                    "standard_error": group.standard_error(metric),
                    "images": sorted({n for n in group.images(metric) if n}),
                    "conventions": [
                        ",".join(f"{name}={value}" for name, value in convention)
                        for convention in group.conventions(metric)
                    ],
                    "seconds_per_model": group.seconds(),
                    **{state: group.seeds(state) for state in _STATES},
                }
                if baseline is not None:
                    comparison = table.compare(group, metric, baseline)
                    for name in ("effect", "low", "high", "t", "dof", "p"):
                        value = comparison and getattr(comparison, name)
                        row[name] = math.nan if value is None else value
                rows.append(row)
    return rows


def to_delimited(rows: Sequence[Mapping[str, Any]], delimiter: str) -> str:
    """Rows as CSV or TSV with a header; seeds are separated by spaces.

    **Arguments:**

    - `rows`: as from `long_rows`, all with the same columns.
    - `delimiter`: "," or a tab.

    **Returns:**

    A line of columns, then a line a row.
    """
    file = io.StringIO()
    if rows:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([_plain(value) for value in row.values()] for row in rows)
    return file.getvalue()


def to_json(value: Any) -> str:
    """A value as JSON, in which what is not a finite number is null.

    **Arguments:**

    - `value`: of dictionaries, lists, texts and numbers.

    **Returns:**

    JSON, indented; numbers that are not finite are null.
    """
    return json.dumps(_finite(value), indent=2)


def to_markdown(grid: TextTable) -> str:
    """A grid as Markdown, with its title above and its notes below.

    **Arguments:**

    - `grid`: from `pivot`.

    **Returns:**

    A table as GitHub shows it, its title and notes.
    """

    def line(cells):
        return "| " + " | ".join(map(_markdown, cells)) + " |"

    return "\n".join(
        [
            f"**{_markdown(grid.title)}**",
            "",
            line(grid.columns),
            line(["---"] * len(grid.columns)),
            *map(line, grid.rows),
            *(
                ["", *(f"- {_markdown(note)}" for note in grid.notes)]
                if grid.notes
                else []
            ),
        ]
    )


def _markdown(text: str) -> str:
    # What ends a cell, begins a tag and makes a link; all else is names as they are.
    return re.sub(r"\||<|(?<=\])\(", r"\\\g<0>", text)


def to_latex(grid: TextTable) -> str:
    """A grid as a LaTeX table, for which the document needs the package booktabs.

    **Arguments:**

    - `grid`: from `pivot`.

    **Returns:**

    A `table` for the package booktabs.
    """

    def line(cells):
        return " & ".join(map(_latex, cells)) + r" \\"

    caption = _latex(" ".join([f"{grid.title}.", *grid.notes]))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.columns) - 1)}}}",
            r"\toprule",
            line(grid.columns),
            r"\midrule",
            *map(line, grid.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _latex(text: str) -> str:
    # The hyphen before a number is a minus, unless it stands in a name or a range.
    return re.sub(r"(?<![\w)-])-(?=\d)", "$-$", text.translate(_LATEX))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, tuple):
        return ":".join(map(repr, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@dataclasses.dataclass(frozen=True)
class Format:
    """How a table is written as text.

    - `write`: called with a grid from `pivot`; where `long`, with the rows of
        `long_rows`, in full precision, and a dictionary of what holds for all.
    """

    write: Callable[..., str]
    long: bool = False


# Those of `eqcifar tabulate --format`, beside the one for a terminal.
FORMATS: dict[str, Format] = {
    "markdown": Format(to_markdown),
    "latex": Format(to_latex),
    "tsv": Format(lambda rows, about: to_delimited(rows, "\t"), long=True),
    "csv": Format(lambda rows, about: to_delimited(rows, ","), long=True),
    "json": Format(
        lambda rows, about: to_json({**about, "rows": rows}) + "\n", long=True
    ),
}
