import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from ..config import TrainConfig
from ..errors import RunError, UsageError
from ..extras import require
from ..storage import Run, cannot_write, run_path
from ._child import Child
from ._finished import Check, Done, is_done, no_check

# A run may meet its time limit so often before it is given up.
_MOST_TIMEOUTS = 100


# Clusters have a largest array, of 1001 by default.
_LARGEST_ARRAY = 1000


_MINUTES = "240"


class TrainJob:
    """What a job of a cluster does: train one run, and save it when told to go.

    `submitit` calls it on the node, and `checkpoint` at the signal that comes before
    the time limit. At the SIGTERM of a preemption, a cancellation or an
    `scontrol requeue`, the run is saved too.
    """

    def __init__(self, command: Sequence[str], run: Run, done: Done = is_done):
        """What is pickled and sent to the node.

        **Arguments:**

        - `command`: trains the run.
        - `run`: its folder, as the node sees it.
        - `done`: says whether nothing is left to do for it.
        """
        self._command, self._run, self._is_done = list(command), run, done
        self._child: Child | None = None

    def __call__(self) -> str:
        """Train; the result is "done", or "elsewhere" when another process is at it."""
        if self._is_done(self._run):
            return "done"
        log = self._run.path / "run.log"
        print(f"Training; the output is in {log}", flush=True)
        signal.signal(signal.SIGTERM, self._terminate)
        # SLURM sends it to every process of the job, and it would kill this one.
        before = signal.signal(_warning_signal(), signal.SIG_IGN)
        self._child = Child(self._command, log, {})
        signal.signal(_warning_signal(), before)
        self._child.wait()
        self._child.poll()
        if self._is_done(self._run):
            return "done"
        if self._run.is_locked():
            return "elsewhere"
        raise RunError("\n".join([self._child.why(), *self._child.tail()]))

    def checkpoint(self) -> Any:
        """Save, and say with what the job goes on when it is started again."""
        from submitit.helpers import DelayedSubmission

        self._save()
        return DelayedSubmission(TrainJob(self._command, self._run, self._is_done))

    def _save(self):
        if self._child and self._child.poll() is None:
            self._child.stop()
            self._child.wait()

    def _terminate(self, number: int, frame: FrameType | None):
        self._save()
        # Cancelled or requeued, the job is "completing" by now. It still runs where it
        # was preempted with a time of grace, and would count as failed at our exit.
        if _slurm_state() == "RUNNING":
            job = os.environ["SLURM_JOB_ID"]
            subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        sys.exit(128 + number)


def submit(
    configs: Iterable[TrainConfig],
    root: str | os.PathLike[str],
    command: Callable[[TrainConfig], Sequence[str]],
    *,
    check: Check = no_check,
    done: Done = is_done,
    options: Mapping[str, str | bool] | None = None,
    jobs: int | None = None,
    executor: Any = None,
) -> list[Any]:
    """Hand runs to SLURM as a job array, one run a job; those done are left out.

    A job that is preempted or meets its time limit saves and is queued again.

    **Arguments:**

    - `configs`: what to run.
    - `root`: the folder of results, which all nodes must see; `.slurm` in it takes what
        `submitit` needs.
    - `command`: the command that trains a configuration there.
    - `check`: says why a finished run is not its configuration's any more, such as
        `eqcifar.runs.FolderCheck`; empty where it is.
    - `done`: says whether nothing is left to do for a run; it is pickled.
    - `options`: sbatch's, by their long names; `time` in minutes, 240 by default.
    - `jobs`: at most so many at a time; by default as many as the cluster gives.
    - `executor`: one of `submitit`'s, in place of that for SLURM.

    **Returns:**

    `submitit`'s jobs, one for each run that was not done.

    **Raises:**

    `UsageError` where there is no SLURM, or it refuses the options, and where `check`
    finds a run changed since it was done.
    """
    root = Path(root).absolute()
    runs = [(config, Run(run_path(root, config))) for config in configs]
    for config, run in runs:
        if done(run) and (problem := check(run, config)):
            raise UsageError(problem)
    tasks = [
        TrainJob(command(config), run, done) for config, run in runs if not done(run)
    ]
    if executor is None:
        executor = _slurm_executor(root / ".slurm", dict(options or {}), jobs)
    submitted = []
    for first in range(0, len(tasks), _LARGEST_ARRAY):
        try:
            # `submitit` prints sbatch's complaint and raises it.
            with contextlib.redirect_stderr(io.StringIO()), executor.batch():
                for task in tasks[first : first + _LARGEST_ARRAY]:
                    submitted.append(executor.submit(task))
        except OSError as error:
            raise cannot_write(root / ".slurm", error) from error
        except RuntimeError as error:
            raise UsageError(f"sbatch refused: {error}") from error
    return submitted


def _slurm_executor(
    folder: Path, options: dict[str, str | bool], jobs: int | None
) -> Any:
    if shutil.which("sbatch") is None:
        raise UsageError(
            "there is no sbatch here: log in to the cluster, or use --shard with "
            "another scheduler"
        )
    submitit = require("submitit", "slurm", "--slurm")
    minutes = str(options.pop("time", _MINUTES))
    if not minutes.isdigit():
        raise UsageError(f"time = {minutes}: must be a whole number of minutes")
    executor = submitit.SlurmExecutor(folder, max_num_timeout=_MOST_TIMEOUTS)
    executor.update_parameters(
        job_name="eqcifar",
        time=int(minutes),
        stderr_to_stdout=True,
        array_parallelism=jobs or _LARGEST_ARRAY,
        additional_parameters={
            "requeue": True,
            **{name.replace("-", "_"): value for name, value in options.items()},
        },
    )
    return executor


def _warning_signal() -> int:
    """The one that SLURM is asked to send some time before it ends a job."""
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    return getattr(signal, f"SIG{name}")


def _slurm_state() -> str:
    job = os.environ.get("SLURM_JOB_ID", "")
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm" or not job:
        return ""
    try:
        return subprocess.run(
            ["squeue", "--noheader", "--format=%T", f"--jobs={job}"],
            capture_output=True,
            check=True,
            text=True,
            timeout=30,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
