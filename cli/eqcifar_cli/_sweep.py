import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eqcifar.config import TrainConfig
from eqcifar.errors import UsageError

from ._configs import Configs
from ._options import arguments, with_options
from ._output import say
from ._run_options import RunOptions

if TYPE_CHECKING:
    from eqcifar.storage import Run

_PANEL = "Sweep"


@with_options
def sweep(
    configs: Configs,
    options: RunOptions,
    *,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for results.", rich_help_panel=_PANEL),
    ] = Path("results"),
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="At most so many runs at a time; by default one a GPU, or one.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None,
    per_device: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Runs that share a GPU, each with its part of the memory; 1 by "
            "default.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only part I of N of the runs, from 1/N to N/N: one for each job of "
            "any scheduler.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the command of each run that is not done, one a line, and run "
            "none.",
            rich_help_panel=_PANEL,
        ),
    ] = False,
    slurm: Annotated[
        bool,
        typer.Option(
            "--slurm",
            help="Submit a job array to SLURM, one run a job, and return. Jobs that "
            "are preempted or meet their time limit save and are queued again.",
            rich_help_panel=_PANEL,
        ),
    ] = False,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="For --slurm, an option of sbatch, such as gpus-per-node=1 or "
            "partition=gpu; time is in minutes, 240 by default. May be given often.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None,
):
    """Train every combination of many values, each run in its own process.

    Options take values between commas: --arch vgg,resnet18 --seeds 0-3 is 8 runs.
    The same command again skips runs that are done, and goes on with the others.
    """
    from eqcifar import fields, sweeps

    if options.track:
        # Refused now, and not in each of the processes.
        from eqcifar.runs import Tracking

        Tracking(options.track)
    if sbatch and not slurm:
        raise UsageError("--sbatch needs --slurm")
    if shard is not None:
        configs = sweeps.take_shard(configs, shard)

    def words(config: TrainConfig) -> list[str]:
        recipe = [*fields.train_arguments(config), "--seed", str(config.seed)]
        return ["train", *recipe, "--out", str(out), *arguments(options)]

    def command(config: TrainConfig) -> list[str]:
        return [sys.executable, "-m", "eqcifar_cli", *words(config)]

    check = sweeps.no_check
    if any(Path(config.dataset).expanduser().is_dir() for config in configs):
        # Reading images takes JAX; those of the hub go by their name.
        from eqcifar.runs import FolderCheck

        check = FolderCheck()
    wanted = options.to_measure()
    done = sweeps.is_done if wanted is None else partial(_is_measured, wanted)
    if dry_run:
        planned = sweeps.Sweep(configs, out, command, check=check, done=done)
        for job in planned.select("waiting"):
            typer.echo(f"eqcifar {shlex.join(words(job.config))}")
    elif slurm:
        given = {
            name: value if equals else True
            for name, equals, value in (text.partition("=") for text in sbatch or [])
        }
        submitted = sweeps.submit(
            configs, out, command, check=check, done=done, options=given, jobs=jobs
        )
        _print_submitted(len(configs), [job.job_id for job in submitted], out)
    else:
        slots = sweeps.make_slots(jobs, per_device)
        _run(
            sweeps.Sweep(configs, out, command, check=check, done=done, slots=slots),
            out,
        )


def _is_measured(wanted: Any, run: "Run") -> bool:
    from eqcifar import results, sweeps

    return sweeps.is_done(run) and results.is_measured(run, *wanted)


def _run(sweep, out: Path):
    from eqcifar.sweeps import START_AGAIN

    from ._stop import StopRequest, exit_code
    from ._sweep_display import Display

    display = Display(sweep, out)
    with StopRequest(display.live) as stop, display:
        stop.listen()
        sweep.run(
            on_change=display.on_change, on_wait=display.on_wait, should_stop=stop
        )
    display.summarise()
    if stop.number is not None:
        raise typer.Exit(exit_code(stop.number))
    if sweep.select("failed"):
        raise typer.Exit(1)
    if sweep.select("interrupted"):
        raise typer.Exit(START_AGAIN)


def _print_submitted(total: int, ids: list[str], out: Path):
    if not ids:
        say(f"All {total} runs were finished before, nothing to do")
        return
    arrays = ",".join(sorted({job.partition("_")[0] for job in ids}))
    say(
        f"Submitted {len(ids)} of {total} runs, the others were finished before\n"
        f"Follow them: squeue --jobs {arrays}\n"
        f"Logs: run.log in each run's folder, and {out / '.slurm'}\n"
        "The same command again submits what is not done then."
    )
