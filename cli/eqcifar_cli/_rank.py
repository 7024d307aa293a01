import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from eqcifar.options import Options, option

from ._options import with_options
from ._output import print_table, print_warning, say
from ._results import (
    Filters,
    Folder,
    choose_metrics,
    for_stdout,
    read,
    split_list,
)
from ._tabulate import FormatOptions

_TARGETS = "test_error", "gap", "loss_gap"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankOptions(Options):
    """How `eqcifar rank` orders networks, and how sure it is."""

    panel = "Options"

    target: str = option(
        ",".join(_TARGETS),
        "What measures should foretell, with commas: test error, the gap of accuracy "
        "between training and test, or that of loss.",
    )
    draws: int = option(
        1000, "Of configurations and measurements, for intervals.", at_least=20
    )
    seed: int = option(0, "Of the draws.", at_least=0, below=2**32)


@with_options
def rank(
    options: RankOptions,
    form: FormatOptions,
    *,
    folder: Folder = Path("results"),
    measures: Annotated[
        list[str] | None,
        typer.Option(
            "--measures",
            "-m",
            help="Columns of sharpness.tsv or log.tsv, of which less should be better; "
            "several, or with commas. By default all measures of sharpness.",
            show_default=False,
        ),
    ] = None,
    filters: Filters = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Draw the ranking there too, as PNG and SVG.",
            show_default=False,
        ),
    ] = None,
):
    """Say how well each measure orders networks, and what choosing by it costs.

    Kendall's tau over all pairs and where one option varies, conditional information,
    sign errors, and the accuracy lost by choosing, each with a 95 % interval.
    """
    from eqcifar import results

    records = read(folder, "eqcifar", filters)
    tables = results.tabulate(records)
    columns = None if measures is None else choose_metrics(measures, tables)
    rankings = results.rank(
        tables,
        columns,
        split_list(options.target),
        draws=options.draws,
        seed=options.seed,
    )
    for warning in dict.fromkeys(text for each in rankings for text in each.warnings):
        print_warning(warning)
    style = results.FORMATS.get(form.format)
    if style is not None and style.long:
        about = {
            "rankings": [
                {
                    "dataset": each.dataset,
                    "options": each.options,
                    "validation": each.validation,
                    "warnings": each.warnings,
                }
                for each in rankings
            ]
        }
        typer.echo(style.write(results.ranking_rows(rankings), about), nl=False)
    else:
        for grid in results.ranking_tables(rankings):
            if style is not None:
                typer.echo(for_stdout(style.write(grid)) + "\n")
                continue
            print_table(
                for_stdout(grid.title),
                [for_stdout(column) for column in grid.columns],
                [[for_stdout(cell) for cell in row] for row in grid.rows],
                left=("split",),
            )
            say(for_stdout("".join(f"{note}\n" for note in grid.notes)))
    if plot is not None:
        _plot(rankings, plot)


def _plot(rankings, folder: Path):
    from eqcifar import figures, results

    folder.mkdir(parents=True, exist_ok=True)
    for ranking in rankings:
        for name, figure in results.plot_ranking(ranking).items():
            for kind in ("png", "svg"):
                path = folder / f"{figures.file_name(name)}.{kind}"
                figures.save_figure(figure, path)
                typer.echo(str(path), err=True)
