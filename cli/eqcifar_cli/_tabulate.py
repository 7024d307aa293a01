from pathlib import Path
from typing import Annotated, Literal

import typer

from ._output import print_json, print_table, say
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


def tabulate(
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
    form: Annotated[
        Literal["table", "markdown", "latex", "tsv", "csv", "json"],
        typer.Option(
            "--format", help="The last three have a line a row, in full precision."
        ),
    ] = "table",
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
    options = {"ddof": ddof, "baseline": against, "select": select}
    if form in ("tsv", "csv", "json"):
        rows = results.long_rows(tables, metrics, **options)
        if form == "json":
            shared = [
                {"synthetic": t.synthetic, "common": t.common, "pooled": t.pooled}
                for t in tables
            ]
            options = {"ddof": ddof, "select": select}
            print_json({**options, "tables": shared, "rows": rows})
        else:
            delimiter = "," if form == "csv" else "\t"
            typer.echo(results.to_delimited(rows, delimiter), nl=False)
        return
    if across is None:
        across = "dataset" if against is None else "none"
    for table in tables:
        grid = results.pivot(
            table, metrics, across=None if across == "none" else across, **options
        )
        first = [group.done[0] for group in table.groups if group.done]
        if devices := results.hardware(first):
            grid.notes.append(f"Times on {', '.join(devices)}.")
        if form == "table":
            show = for_stdout
            print_table(
                show(grid.title),
                [show(column) for column in grid.columns],
                [[show(cell) for cell in row] for row in grid.rows],
            )
            say(show("".join(f"{note}\n" for note in grid.notes)))
        else:
            convert = results.to_markdown if form == "markdown" else results.to_latex
            typer.echo(for_stdout(convert(grid)) + "\n")
