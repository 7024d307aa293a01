import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from eqcifar.config import keys_of
from eqcifar.options import Options, option

from ._options import with_options
from ._output import print_table, say
from ._results import (
    By,
    Filters,
    Folder,
    Layout,
    Select,
    Sort,
    choose_metrics,
    for_stdout,
    read,
    split_list,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormatOptions(Options):
    """How the table is written: for the terminal, or as `results.FORMATS` has it."""

    panel = "Options"

    format: str = option(
        "table",
        "Those beside table, markdown and latex have a line a row, in full precision.",
        choices=("table", *keys_of("results/_formats.py", "FORMATS")),
    )


@with_options
def tabulate(
    options: FormatOptions,
    *,
    folder: Folder = Path("results"),
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="Column of log.tsv or sharpness.tsv; several, or with commas.  "
            "[default: acc_te]",
            show_default=False,
        ),
    ] = None,
    sharpness: Annotated[
        bool,
        typer.Option(
            "--sharpness",
            help="Show all measures of sharpness, with their standard errors.",
        ),
    ] = False,
    select: Select = "last",
    filters: Filters = None,
    by: By = None,
    across: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="The field whose values become columns; none: no field.  [default: "
            "dataset; none with --baseline]",
            show_default=False,
        ),
    ] = None,
    sort: Sort = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEEDS",
            help="Seeds that each row should have, such as 0-3; by default all that "
            "any row has.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="Test each row against that which has this value and is otherwise "
            "the same, such as mixup=0 or arch=vgg,mixup=0: Welch's t.",
            show_default=False,
        ),
    ] = None,
    ddof: Annotated[
        int,
        typer.Option(
            min=0,
            max=1,
            help="1: sample standard deviation; 0: the original's, divided by n.",
        ),
    ] = 1,
    layout: Layout = "eqcifar",
):
    """Print one table of all runs: mean and standard deviation over the seeds."""
    from eqcifar import fields, results

    records = read(folder, layout, filters, select)
    wanted = None if seeds is None else fields.parse_values("seed", seeds)
    tables = results.tabulate(
        records, by=None if by is None else split_list(by), seeds=wanted, sort=sort
    )
    metrics = choose_metrics(metric or ([] if sharpness else ["acc_te"]), tables)
    if sharpness:
        metrics += results.sharpness_columns(tables)
    against = None if baseline is None else results.parse_baseline(baseline, records)
    if against is not None:
        results.check_baseline(tables, against)
    how = {"ddof": ddof, "baseline": against, "select": select}
    form = results.FORMATS.get(options.format)
    if form is not None and form.long:
        shared = [
            {"synthetic": t.synthetic, "common": t.common, "pooled": t.pooled}
            for t in tables
        ]
        about = {"ddof": ddof, "select": select, "tables": shared}
        rows = results.long_rows(tables, metrics, **how)
        typer.echo(form.write(rows, about), nl=False)
        return
    if across is None:
        across = "dataset" if against is None else "none"
    for table in tables:
        grid = results.pivot(
            table, metrics, across=None if across == "none" else across, **how
        )
        first = [group.done[0] for group in table.groups if group.done]
        if devices := results.hardware(first):
            grid.notes.append(f"Times on {', '.join(devices)}.")
        if form is None:
            show = for_stdout
            print_table(
                show(grid.title),
                [show(column) for column in grid.columns],
                [[show(cell) for cell in row] for row in grid.rows],
            )
            say(show("".join(f"{note}\n" for note in grid.notes)))
        else:
            typer.echo(for_stdout(form.write(grid)) + "\n")
