from pathlib import Path
from typing import Annotated, Literal

import typer

from ._output import print_warning
from ._results import By, Filters, Folder, Layout, choose_metrics, read, split_list


def plot(
    results: Folder = Path("results"),
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="Column of log.tsv to draw over the epochs; several, or with commas.  "
            "[default: acc_te]",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MEASURES",
            help="Draw the metrics against these columns of sharpness.tsv too; by "
            "default against all its measures.",
            show_default=False,
        ),
    ] = None,
    filters: Filters = None,
    by: By = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write the figures to.")
    ] = Path("plots"),
    form: Annotated[
        Literal["both", "png", "svg"], typer.Option("--format", help="What to write.")
    ] = "both",
    layout: Layout = "eqcifar",
):
    """Draw training curves over the seeds, and accuracy against sharpness."""
    from eqcifar import runs
    from eqcifar.errors import UsageError

    records = read(results, layout, filters)
    tables = runs.tabulate(records, by=None if by is None else split_list(by))
    metrics = choose_metrics(metric or ["acc_te"], tables)
    if against is None:
        try:
            measures = runs.sharpness_measured(tables)
        except UsageError:
            measures = []
    else:
        measures = choose_metrics([against], tables)
    figures = {}
    for table in tables:
        mark = "SYNTHETIC " if table.synthetic else ""
        for name in metrics:
            drawn = runs.plot_curves(table, name, warn=print_warning)
            for measure in measures:
                drawn |= runs.plot_against(table, measure, name)
            figures |= {f"{mark}{title}": figure for title, figure in drawn.items()}
    if not figures:
        raise UsageError(f"nothing to draw: no run in {results} is done")
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        for kind in ("png", "svg") if form == "both" else (form,):
            path = out / f"{runs.file_name(name)}.{kind}"
            runs.save_figure(figure, path)
            typer.echo(path)
