from pathlib import Path
from typing import Annotated

import typer

from ._configs import Config
from ._options import with_options
from ._output import print_warning
from ._run_options import RunOptions


@with_options
def train(
    config: Config,
    options: RunOptions,
    *,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for results.", rich_help_panel="Run"),
    ] = Path("results"),
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Run over several hosts: start one process a GPU with srun or mpirun.",
            rich_help_panel="Run",
        ),
    ] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(
            "--coordinator",
            metavar="HOST:PORT",
            help="Where no cluster is found, as with plain ssh: a free port of the "
            "first process's host. Needs --processes and --process-id.",
            rich_help_panel="Run",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", min=1, help="How many in all.", rich_help_panel="Run"
        ),
    ] = None,
    process_id: Annotated[
        int | None,
        typer.Option(
            "--process-id",
            min=0,
            help="Which this one is; 0 writes the files.",
            rich_help_panel="Run",
        ),
    ] = None,
):
    """Train a network, or go on with a run that was interrupted.

    The same options mean the same run: a finished one is not computed again.
    """
    from eqcifar import runs

    from ._hosts import join, together
    from ._jax import keep_compilations
    from ._training import Training

    # On all processes: one that fails alone would leave the others waiting.
    tracking = runs.Tracking(options.track, warn=print_warning)
    if distributed or any(x is not None for x in (coordinator, processes, process_id)):
        join(coordinator, processes, process_id)
    keep_compilations()
    training = Training(config, options, tracking)
    with together():
        training.conclude(training.train(out))
