from typing import Annotated

import typer

import eqcifar

from . import _data
from ._archs import archs
from ._compare import compare
from ._connect import connect
from ._doctor import doctor
from ._eval import evaluate
from ._export import export
from ._import import import_
from ._plot import plot
from ._predict import predict
from ._program import Program
from ._pull import pull
from ._push import push
from ._rank import rank
from ._report import report
from ._sharpness import sharpness
from ._sweep import sweep
from ._tabulate import tabulate
from ._train import train
from ._verify import verify


def _print_version(wanted: bool):
    if wanted:
        typer.echo(f"eqcifar {eqcifar.__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
):
    """Train CIFAR classifiers in JAX and Equinox, and measure how sharp minima are.

    Exit codes: 0 done, 1 failed, 2 asked for something impossible; 75 stopped by
    SIGTERM, SIGUSR1, SIGUSR2 or SIGHUP and 130 by Ctrl-C, with all saved: start the
    same command again to go on. EQCIFAR_DEBUG=1 shows tracebacks.
    """


app = typer.Typer(
    name="eqcifar",
    cls=Program,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.callback()(_main)
app.command()(train)
app.command()(sweep)
app.command("eval")(evaluate)
app.command()(predict)
app.command()(export)
app.command("import")(import_)
app.command()(push)
app.command()(pull)
app.command()(tabulate)
app.command()(plot)
app.command()(rank)
app.command()(report)
app.command()(sharpness)
app.command()(compare)
app.command()(connect)
app.command()(verify)
app.command()(archs)
app.add_typer(_data.app, name="data")
app.command()(doctor)
