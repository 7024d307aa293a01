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
):
    """Train a network, or go on with a run that was interrupted.

    The same options mean the same run: a finished one is not computed again.
    """
    from eqcifar import parallel, runs

    from ._jax import keep_compilations
    from ._training import Training

    # On all processes: one that fails alone would leave the others waiting.
    tracking = runs.Tracking(options.track, warn=print_warning)
    if distributed:
        parallel.initialise()
    keep_compilations()
    training = Training(config, options, tracking)
    training.conclude(training.train(out))
