import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from ..config import TrainConfig
from ..storage import Run, cannot_write, run_path
from ._child import BY_KEYBOARD, START_AGAIN, Child
from ._finished import Check, Done, is_done, no_check
from ._slots import Slot

State = Literal[
    "waiting", "running", "done", "skipped", "elsewhere", "interrupted", "failed"
]


@dataclasses.dataclass(eq=False)
class Job:
    """A run of a sweep and how it goes.

    - `state`: "done" here or elsewhere, "skipped" as it was done before, "elsewhere"
        while another process is at it, or as the words say.
    - `slot`: where it runs or ran.
    - `message`: of a failure, in a line; `tail`: the end of its log.
    - `seconds`: how long it ran, in this sweep.
    """

    config: TrainConfig
    run: Run
    state: State = "waiting"
    slot: Slot = Slot()
    message: str = ""
    tail: Sequence[str] = ()
    began: float = 0.0
    seconds: float = 0.0
    child: Child | None = None


class Sweep:
    """Runs, each in a process of its own, as many at a time as there are slots.

    What is done is not computed again, what was interrupted goes on, and what another
    process is at is left to it. No run is computed twice: each process claims its run
    by a lock that dies with it.
    """

    def __init__(
        self,
        configs: Iterable[TrainConfig],
        root: str | os.PathLike[str],
        command: Callable[[TrainConfig], Sequence[str]],
        *,
        check: Check = no_check,
        done: Done = is_done,
        slots: Sequence[Slot] = (Slot(),),
        patience: float = 60.0,
        interval: float = 0.1,
    ):
        """Look which runs are done; nothing is started yet.

        One that `check` finds changed since it was done has failed.

        **Arguments:**

        - `configs`: what to run, in this order.
        - `root`: the folder of results.
        - `command`: the command that trains a configuration there. Its output goes to
            `run.log` in the run's folder.
        - `check`: says why a finished run is not its configuration's any more, such as
            `eqcifar.runs.FolderCheck`; empty where it is.
        - `done`: says whether nothing is left to do for a run.
        - `slots`: where runs can be; each holds one at a time.
        - `patience`: seconds to wait at the end for runs that others are at, such as
            the children of a sweep that was killed, which save and stop.
        - `interval`: seconds between two looks at the processes.
        """
        self._is_done = done
        self.jobs = [Job(config, Run(run_path(root, config))) for config in configs]
        for job in self.jobs:
            if done(job.run):
                job.message = check(job.run, job.config)
                job.state = "failed" if job.message else "skipped"
        self.slots = slots
        self._root, self._command = Path(root), command
        self._free, self._stopping = list(slots), False
        self._patience, self._interval = patience, interval

    def select(self, *states: State) -> list[Job]:
        """The jobs in one of these states.

        **Arguments:**

        - `states`: of which one is enough.

        **Returns:**

        The jobs in their order.
        """
        return [job for job in self.jobs if job.state in states]

    def run(
        self,
        *,
        on_change: Callable[[Job], None] = lambda job: None,
        on_wait: Callable[[], None] = lambda: None,
        should_stop: Callable[[], bool] = lambda: False,
    ):
        """Run what is not done; return when all have ended or were told to stop.

        **Arguments:**

        - `on_change`: called with each job that starts or ends.
        - `on_wait`: called between two looks at the processes.
        - `should_stop`: when it says so, all processes save and end.

        **Raises:**

        `RunError` when the results folder cannot be written.
        """
        if not self.select("waiting"):
            return
        _check_writable(self._root)
        try:
            patient_until = time.monotonic() + self._patience
            while True:
                for job in self._advance(should_stop()):
                    on_change(job)
                if self.select("running"):
                    patient_until = time.monotonic() + self._patience
                elif (
                    self._stopping
                    or not self.select("waiting", "elsewhere")
                    or time.monotonic() > patient_until
                ):
                    return
                on_wait()
                time.sleep(self._interval)
        finally:
            # After an error of this process's own, too.
            self._stop()
            for job in self.select("running"):
                if job.child:
                    job.child.wait()
                    job.child.poll()

    def _advance(self, stop: bool) -> Iterator[Job]:
        yield from filter(self._has_ended, self.select("running"))
        if stop:
            self._stop()
            return
        for job in self.select("waiting"):
            if not self._free:
                return
            self._start(job)
            yield job
        if not self.select("running"):
            yield from filter(self._look_again, self.select("elsewhere"))

    def _start(self, job: Job):
        # Another sweep may have been at it since this one began.
        if self._is_done(job.run):
            job.state = "done"
            return
        if job.run.is_locked():
            job.state = "elsewhere"
            return
        log = job.run.path / "run.log"
        slot = self._free.pop(0)
        try:
            job.child = Child(self._command(job.config), log, slot.env)
        except OSError as error:
            self._free.insert(0, slot)
            job.state = "failed"
            job.message = f"cannot start: {error.filename or log}: {error.strerror}"
        else:
            job.state, job.slot, job.began = "running", slot, time.monotonic()

    def _has_ended(self, job: Job) -> bool:
        code = job.child.poll() if job.child else None
        if job.child is None or code is None:
            return False
        job.seconds = time.monotonic() - job.began
        self._free.append(job.slot)
        if self._is_done(job.run):
            job.state = "done"
        elif code in (BY_KEYBOARD, START_AGAIN) or (self._stopping and code < 0):
            job.state = "interrupted"
        elif job.run.is_locked():
            job.state = "elsewhere"
        else:
            job.state = "failed"
            job.message, job.tail = job.child.why(), job.child.tail()
        return True

    def _look_again(self, job: Job) -> bool:
        if self._is_done(job.run):
            job.state = "done"
        elif not job.run.is_locked():
            job.state = "waiting"
        return job.state == "done"

    def _stop(self):
        if self._stopping:
            return
        self._stopping = True
        for job in self.select("running"):
            if job.child:
                job.child.stop()


def _check_writable(root: Path):
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise cannot_write(root, error) from error
