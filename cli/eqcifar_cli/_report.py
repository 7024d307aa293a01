from pathlib import Path
from typing import Annotated

import typer

from ._output import print_warning, say
from ._results import Filters, Folder, Layout, Select, choose_metrics, read


def report(
    folder: Folder = Path("results"),
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The HTML file to write.")
    ] = Path("report.html"),
    metric: Annotated[
        str, typer.Option("--metric", "-m", help="The column of log.tsv that matters.")
    ] = "acc_te",
    select: Select = "last",
    filters: Filters = None,
    title: Annotated[
        str | None,
        typer.Option(help="Of the page; the folder by default.", show_default=False),
    ] = None,
    layout: Layout = "eqcifar",
):
    """Write one HTML page with tables, curves and the command that makes each row.

    The page needs no network and no other file.
    """
    from eqcifar import results

    problems: list[str] = []

    def warn(message: str):
        problems.append(message)
        print_warning(message)

    records = read(folder, layout, filters, select, warn)
    choose_metrics([metric], results.tabulate(records))
    results.write_report(
        records,
        out,
        title=title or f"Results in {folder.name or folder.resolve().name}",
        metric=metric,
        select=select,
        problems=problems,
        warn=warn,
    )
    say(f"Wrote {out}")
