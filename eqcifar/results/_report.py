import base64
import dataclasses
import datetime
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import UsageError
from ..extras import require
from ..fields import DEFAULTS, show_field, train_command
from ..figures import INK, save_figure
from ..storage import STATES, replacing
from ._cells import show_conditions, show_number, show_seeds, show_summary, show_time
from ._conditions import field_of, fields_of
from ._measures_table import legend, measures_table
from ._pivot import TextTable, pivot
from ._plot import LEAST_ROWS, distinct_measures, plot_all, plot_curves
from ._provenance import hardware, software
from ._rank import Ranking, rank
from ._rank_plot import plot_ranking
from ._rank_table import ranking_tables
from ._records import Record
from ._table import Group, Table, measured_columns, tabulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_TEMPLATE = Path(__file__).with_name("_report.html")


# A page with more is slow to read in both senses; `eqcifar plot` draws all.
_MOST_FIGURES = 40


_MOST_ROWS = 500


# Of the ranking's bootstrap: `eqcifar rank` takes more.
_DRAWS = 200


@dataclasses.dataclass(frozen=True)
class Section:
    """What the page says of the runs on real images, or of those on synthetic ones."""

    title: str
    tables: list[TextTable]
    legend: list[tuple[str, str]]
    figures: list[tuple[Any, Any]]
    left_out: str
    options: list[tuple[str, list[str]]]
    shared: list[tuple[str, str, bool]]
    rows: list[dict[str, Any]]
    rows_left_out: str


def write_report(
    records: Iterable[Record],
    path: str | os.PathLike[str],
    *,
    title: str = "Results",
    metric: str = "acc_te",
    select: str = "last",
    problems: Sequence[str] = (),
    warn: Callable[[str], None] = warnings.warn,
):
    """Write everything about some runs into one HTML page that needs nothing else.

    The page has tables, curves, what the configurations differ in, and the command that
    makes each row. It loads nothing and runs no program.

    **Arguments:**

    - `records`: from `read_records`.
    - `path`: the file to write.
    - `title`: of the page.
    - `metric`: the column of the logs that matters.
    - `select`: as in `read_records`.
    - `problems`: lines about runs that could not be read.
    - `warn`: called with a line for each log that cannot be drawn.

    **Raises:**

    `UsageError` without Matplotlib or Jinja2; `RunError` when the page cannot be
    written.
    """
    jinja2 = require("jinja2", "plot", "a report")
    require("matplotlib", "plot", "a report")
    records = list(records)
    states = Counter(record.state for record in records)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        title=title,
        version=__version__,
        time=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        count=len(records),
        states=[(states[state], state) for state in STATES if states[state]],
        problems=problems,
        sections=[
            _section(table, metric, select, f"figure{index}-", warn)
            for index, table in enumerate(tabulate(records))
        ],
    )
    with replacing(Path(path)) as file:
        file.write(page.encode())


def _section(
    table: Table, metric: str, select: str, prefix: str, warn: Callable[[str], None]
) -> Section:
    tables = [pivot(table, [metric], select=select)]
    known = distinct_measures(table)
    figures = plot_all(table, [metric], warn=warn)
    for other in ("loss", "acc_tr", *known):
        if other != metric and other in measured_columns([table]):
            same = known.get(other, ())
            figures |= plot_curves(table, other, same=same, warn=warn)
    measures = [name for first, others in known.items() for name in (first, *others)]
    if measures:
        tables.append(measures_table(table, measures))
    rankings = _rankings(table)
    tables += ranking_tables(rankings)
    for ranking in rankings:
        figures |= plot_ranking(ranking)
    drawn = list(figures.items())[:_MOST_FIGURES]
    left_out = len(figures) - len(drawn)
    kinds = {r.kind: r for group in table.groups for r in group.records}.values()
    options, shared = [], []
    for name in fields_of(kinds):
        default = DEFAULTS.get(name)
        values = {show_field(field_of(record, name)): None for record in kinds}
        if name == "seed":
            continue
        if len(values) > 1:
            options.append((name, list(values)))
        else:
            (value,) = values
            shared.append((name, value, value != show_field(default)))
    groups = table.groups[:_MOST_ROWS]
    unshown = len(table.groups) - len(groups)
    return Section(
        "SYNTHETIC images" if table.synthetic else "Real images",
        tables,
        legend(table, measures),
        [
            (figure.get_label(), inline_svg(figure, name, f"{prefix}{index}-"))
            for index, (name, figure) in enumerate(drawn)
        ]
        + _pictures(groups[: _MOST_FIGURES - len(drawn)], warn),
        f"{left_out} more figures are left out: `eqcifar plot` draws all."
        if left_out
        else "",
        options,
        shared,
        [_row(group, metric) for group in groups],
        f"{unshown} more rows are left out: `--filter` makes a page of fewer runs."
        if unshown
        else "",
    )


def _rankings(table: Table) -> list[Ranking]:
    if len(table.groups) < LEAST_ROWS:
        return []
    try:
        return rank([table], targets=("test_error",), draws=_DRAWS)
    except UsageError:
        # Nothing is measured, or of too few networks of a data set.
        return []


def _row(group: Group, metric: str) -> dict[str, Any]:
    recipes: dict[Any, list[Record]] = {}
    for record in group.records:
        if not (record.in_python or record.imported):
            recipes.setdefault(record.recipe, []).append(record)
    return {
        "name": show_conditions(group.fields),
        "result": show_summary(group, metric, 1),
        "time": show_time(group.seconds()),
        "commands": [
            train_command(recipe, [record.seed for record in records])
            for recipe, records in recipes.items()
        ],
        "in_python": sorted(
            {_what(record) for record in group.records if record.in_python}
        ),
        "imported": sorted(
            {str(record.about["origin"]) for record in group.records if record.imported}
        ),
        "hardware": hardware(group.records),
        "software": software(group.records),
        "missing": show_seeds(group.missing),
        "runs": [
            (
                record.seed,
                record.state,
                show_number(record.values.get(metric, float("nan")), 0.0, metric),
                show_time(record.seconds),
                str(record.path),
            )
            for record in sorted(group.records, key=lambda record: record.seed)
        ],
    }


def _what(record: Record) -> str:
    recipe = record.recipe
    about = f", {show_conditions(record.about)}" if record.about else ""
    return f"{recipe.arch} with the loss {recipe.loss} on {recipe.dataset}{about}"


def inline_svg(figure: "Figure", title: str, prefix: str) -> Any:
    """A figure as SVG to stand in a page, in the colour of the page's text.

    **Arguments:**

    - `figure`: the figure.
    - `title`: what it shows, for those who cannot see it.
    - `prefix`: begins each identifier, which must be unique on the page.

    **Returns:**

    Markup that Jinja2 does not escape.
    """
    markup = require("markupsafe", "plot", "a report").Markup
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.svg"
        save_figure(figure, path, text_as_paths=False, transparent=True)
        text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)

    def adapt(tag: re.Match[str]) -> str:
        prefixed = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", tag[0])
        return prefixed.replace(INK, "currentColor")

    # Names of data sets and the like stand between tags.
    text = re.sub(r"<[^>]+>", adapt, text)
    label = markup.escape(title)
    return markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def _pictures(
    groups: Iterable[Group], warn: Callable[[str], None]
) -> list[tuple[str, Any]]:
    # What was drawn beside a run, such as spectra and landscapes, of one seed a row.
    markup = require("markupsafe", "plot", "a report").Markup
    pictures = []
    for group in groups:
        record = group.records[0]
        for path in sorted(record.path.glob("*.svg")):
            # A page is given to others: nothing from elsewhere gets onto it.
            if path.resolve().parent != record.path.resolve() or not path.is_file():
                warn(
                    f"left out of the report: {path} is a link out of its run's folder"
                )
                continue
            about = f"{show_conditions(group.fields)}, seed {record.seed}"
            what = path.stem.removeprefix("sharpness_").replace("_", " ")
            name = markup.escape(f"{what} of {about}")
            data = base64.b64encode(path.read_bytes()).decode()
            source = f"data:image/svg+xml;base64,{data}"
            image = f'<img class="picture" alt="{name}" src="{source}">'
            pictures.append((name, markup(image)))
    return pictures
