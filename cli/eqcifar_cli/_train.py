import shlex
from pathlib import Path
from typing import Annotated

import typer

from eqcifar.config import TrainConfig

from ._config_options import config_options
from ._output import console, print_warning


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
    grad_accum: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="K",
            help="Compute each batch in K pieces one after another, to save memory; "
            "the numbers stay the same. Needs a --bn-group that divides a piece.",
            rich_help_panel="Run",
        ),
    ] = 1,
    remat: Annotated[
        bool,
        typer.Option(
            "--remat",
            help="Save memory by computing again, in the backward pass, all but "
            "convolutions.",
            rich_help_panel="Run",
        ),
    ] = False,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Run over several hosts: start one process a GPU with srun or mpirun.",
            rich_help_panel="Run",
        ),
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="tensorboard|wandb|trackio",
            help="Show the log there too; may be given more than once.",
            show_default=False,
            rich_help_panel="Run",
        ),
    ] = None,
    sharpness_every: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="K",
            help="Measure sharpness every K epochs, into sharpness_log.tsv, which "
            "plots and trackers show; 0: never.",
            rich_help_panel="Run",
        ),
    ] = 0,
    sharpness_measures: Annotated[
        str,
        typer.Option(
            help="Which measures, as in `eqcifar sharpness`.", rich_help_panel="Run"
        ),
    ] = "trace,ntk",
    sharpness_samples: Annotated[
        int,
        typer.Option(help="On so many training images; 0: all.", rich_help_panel="Run"),
    ] = 500,
):
    """Train a network, or go on with a run that was interrupted.

    The same options mean the same run: a finished one is not computed again.
    """
    from eqcifar import models, parallel, runs

    from ._jax import keep_compilations
    from ._progress import Reporter, format_row
    from ._stop import StopRequest

    # On all processes: one that fails alone would leave the others waiting.
    tracking = runs.Tracking(track or (), warn=print_warning)
    if distributed:
        parallel.initialise()
    keep_compilations()
    screen = console(quiet=not parallel.is_main_process())
    sharpness_log = None
    if sharpness_every:
        sharpness_log = runs.SharpnessLog(
            config,
            sharpness_every,
            [name.strip() for name in sharpness_measures.split(",")],
            runs.SharpnessOptions(samples=sharpness_samples),
            warn=print_warning,
        )

    with (
        tracking,
        Reporter(screen, config.epochs) as reporter,
        StopRequest() as stop,
    ):
        started = False

        def on_start(run, dataset, train_state):
            nonlocal started
            started = True
            stop.listen()
            step = int(train_state.step)
            verb = f"Going on after step {step}" if step else "Training"
            splits = dataset.splits.items()
            sizes = ", ".join(f"{len(part)} {name}" for name, part in splits)
            parameters = models.count_parameters(train_state.model)
            reporter.print(
                f"{verb}: {config.arch} ({parameters:,} parameters, {config.loss} loss)"
                f" on {dataset.title}: {sizes} images"
            )
            reporter.print(f"Results in {run.path}")
            reporter.start(step, "SYNTHETIC" if dataset.synthetic else "")
            if sharpness_log is not None:
                sharpness_log.on_start(run, dataset, train_state)
            start_tracking(run)

        def on_compiled(memory):
            if memory is not None:
                reporter.print(f"A step needs {memory / 1e9:.2f} GB on each device")

        def start_tracking(run):
            if parallel.is_main_process():
                tracking.start(run)

        def on_epoch(train_state, row):
            reporter.on_epoch(row)
            # Trackers take the sharpness of an epoch with its row.
            if sharpness_log is not None:
                sharpness_log.on_epoch(train_state, row)
            tracking.log(row)

        run = runs.train_run(
            config,
            out,
            devices=devices,
            grad_accum=grad_accum,
            remat=remat,
            hooks=runs.Hooks(
                on_compiled=on_compiled,
                on_start=on_start,
                on_progress=reporter.on_progress,
                on_epoch=on_epoch,
                should_stop=stop,
                warn=print_warning,
            ),
        )
        if not started:
            start_tracking(run)
    status = run.status()
    if stop.number is not None and status["state"] == "interrupted":
        screen.print(
            f"Interrupted: {status['message']}. Results in {run.path}. Run the same "
            "command to go on.",
            soft_wrap=True,
        )
        raise typer.Exit(128 + stop.number)
    verb = "Finished" if started else "Finished before, nothing to do"
    mark = "SYNTHETIC" if status.get("synthetic") else ""
    screen.print(
        f"{verb}: {format_row(run.log()[-1], config.epochs, mark)}\n"
        f"Results in {run.path}\nNext: eqcifar eval {shlex.quote(str(run.path))}",
        soft_wrap=True,
    )
