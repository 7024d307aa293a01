from pathlib import Path
from typing import Annotated, Literal

import typer

from ._output import print_warning, say
from ._results import By, Filters, Folder, Layout, choose_metrics, read, split_list


def plot(
    folder: Folder = Path("results"),
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="Column of log.tsv or sharpness_log.tsv to draw over the epochs; "
            "several, or with commas.  [default: acc_te]",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MEASURES",
            help="Draw the metrics against these columns of sharpness.tsv too; by "
            "default those of log.tsv against all measures.",
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
    from eqcifar import figures, results
    from eqcifar.errors import UsageError

    records = read(folder, layout, filters)
    tables = results.tabulate(records, by=None if by is None else split_list(by))
    metrics = choose_metrics(metric or ["acc_te"], tables)
    measures = None if against is None else choose_metrics([against], tables)
    drawn = {}
    for table in tables:
        mark = "SYNTHETIC " if table.synthetic else ""
        found = results.plot_all(table, metrics, measures, warn=print_warning)
        drawn |= {f"{mark}{title}": figure for title, figure in found.items()}
    if not drawn:
        if any(group.done for table in tables for group in table.groups):
            raise UsageError(
                f"nothing to draw: {', '.join(metrics)} was measured once, not along "
                "training (`eqcifar train --sharpness-every K`), and no two runs differ"
            )
        raise UsageError(f"nothing to draw: no run in {folder} is done")
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        for kind in ("png", "svg") if form == "both" else (form,):
            path = out / f"{figures.file_name(name)}.{kind}"
            figures.save_figure(figure, path)
            say(str(path))
