import shlex
from pathlib import Path
from typing import Annotated

import typer

from ._configs import Config
from ._options import with_options
from ._output import console, print_warning, say
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
    from eqcifar import measurements, models, parallel, runs

    from ._jax import keep_compilations
    from ._progress import Reporter, format_row
    from ._stop import StopRequest, exit_code

    # On all processes: one that fails alone would leave the others waiting.
    tracking = runs.Tracking(options.track, warn=print_warning)
    if distributed:
        parallel.initialise()
    keep_compilations()
    screen = console(quiet=not parallel.is_main_process())
    reporter = Reporter(screen, config.epochs)

    with tracking, StopRequest(reporter.bar) as stop, reporter:
        started = False
        sharpness_log = None
        if options.sharpness_every:
            sharpness_log = measurements.SharpnessLog(
                config,
                options.sharpness_every,
                [name.strip() for name in options.sharpness_measures.split(",")],
                measurements.SharpnessOptions(samples=options.sharpness_samples),
                warn=print_warning,
                report=reporter.on_measure,
                should_stop=stop,
            )

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
            reporter.on_compile()

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
            devices=options.devices,
            grad_accum=options.grad_accum,
            remat=options.remat,
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
        # One process may have been told to stop; all exit alike.
        number = parallel.highest(stop.number or 0)
    status = run.status()
    if status["state"] == "interrupted":
        say(
            f"Interrupted: {status['message']}. Results in {run.path}. Run the same "
            "command to go on.",
            screen,
        )
        raise typer.Exit(exit_code(number))
    verb = "Finished" if started else "Finished before, nothing to do"
    mark = "SYNTHETIC" if status.get("synthetic") else ""
    say(
        f"{verb}: {format_row(run.log()[-1], config.epochs, mark)}\n"
        f"Results in {run.path}\nNext: eqcifar eval {shlex.quote(str(run.path))}",
        screen,
    )
