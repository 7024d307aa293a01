from pathlib import Path
from typing import Annotated

import typer

from eqcifar.config import TrainConfig

from ._config_options import config_options
from ._output import console


@config_options
def train(
    config: TrainConfig,
    *,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for results.", rich_help_panel="Run"),
    ] = Path("results"),
    devices: Annotated[
        int | None,
        typer.Option(
            help="Number of devices that share each batch; all by default.",
            show_default=False,
            rich_help_panel="Run",
        ),
    ] = None,
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
    from eqcifar.training import Interrupted

    from ._jax import keep_compilations
    from ._progress import Reporter
    from ._stop import StopRequest

    if distributed:
        parallel.initialise()
    keep_compilations()
