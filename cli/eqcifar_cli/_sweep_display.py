import os
import time
from pathlib import Path

from rich import box
from rich.live import Live
from rich.table import Table

from eqcifar.errors import EqcifarError
from eqcifar.sweeps import Job, Sweep

from ._output import console, say
from ._progress import duration, format_row

_REFRESH_SECONDS = 1.0
_SECONDS_BETWEEN_LINES = 60.0
_SHOWN_TAILS = 10


class Display:
    """Prints a line for each run that starts or ends, and shows what is running.

    That is a table in a terminal, and elsewhere a line a run now and then; both have
    the last line that a run printed.
    """

    def __init__(self, sweep: Sweep, out: Path):
        self._sweep, self._out, self._console = sweep, out, console()
        self.live = Live(console=self._console, auto_refresh=False, transient=True)
        live = self._console.is_interactive
        self._every = _REFRESH_SECONDS if live else _SECONDS_BETWEEN_LINES
        self._next = time.monotonic() + self._every

    def __enter__(self) -> "Display":
        jobs, slots = len(self._sweep.jobs), len(self._sweep.slots)
        done = len(self._sweep.select("skipped"))
        self._print(
            f"{jobs} runs in {self._out}: {done} finished before, {jobs - done} to do, "
            f"{slots} at a time"
        )
        if self._console.is_interactive:
            self.live.start()
        return self

    def __exit__(self, *_):
        self.live.stop()

    def on_change(self, job: Job):
        """Print what became of a run."""
        line = self._line(job)
        if job.state == "running":
            line += f"  on {job.slot.name}" if job.slot.name else ""
        elif job.state == "done":
            line += f"  {_progress(job)}"
            line += f"  in {duration(job.seconds)}" if job.seconds else ""
        elif job.state == "failed":
            line += f"  {job.message}"
        self._print(line)

    def on_wait(self):
        """Show what is running, now and then."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        if self._console.is_interactive:
            self.live.update(self._table(), refresh=True)
            return
        for job in self._sweep.select("running"):
            elapsed = duration(now - job.began)
            self._print(f"{self._line(job)}  {_doing(job)}  for {elapsed}")

    def _line(self, job: Job) -> str:
        pending = self._sweep.select("waiting", "running", "elsewhere")
        total = len(self._sweep.jobs)
        return f"[{total - len(pending)}/{total}] {job.state:11} {self._name(job)}"

    def summarise(self):
        """Print how many ended how, and the end of the log of those that failed."""
        failed = self._sweep.select("failed")
        for job in failed[:_SHOWN_TAILS]:
            self._print(f"\nFailed: {self._name(job)}")
            for line in job.tail or [job.message]:
                self._print(f"    {line}")
            self._print(f"    ({job.run.path / 'run.log'})")
        if len(failed) > _SHOWN_TAILS:
            self._print(f"\n... and {len(failed) - _SHOWN_TAILS} others")
        self._print(f"\n{self._counts()}")
        if self._sweep.select("failed", "interrupted", "waiting"):
            self._print("Run the same command to go on with those that are not done.")

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE)
        for column in ("run", "on", "progress", "time"):
            table.add_column(column, overflow="fold")
        table.caption = self._counts()
        table.caption_justify = "left"
        now = time.monotonic()
        for job in self._sweep.select("running"):
            elapsed = duration(now - job.began)
            table.add_row(self._name(job), job.slot.name, _doing(job), elapsed)
        return table

    def _counts(self) -> str:
        names = {
            "done": "done",
            "skipped": "finished before",
            "running": "running",
            "waiting": "waiting",
            "interrupted": "interrupted",
            "elsewhere": "left to another process",
            "failed": "failed",
        }
        counts = {
            text: len(self._sweep.select(state))  # pyright: ignore
            for state, text in names.items()
        }
        return ", ".join(f"{count} {text}" for text, count in counts.items() if count)

    def _name(self, job: Job) -> str:
        return os.path.relpath(job.run.path, self._out)

    def _print(self, line: str):
        say(line, self._console)


def _doing(job: Job) -> str:
    # What it says last: that it compiles, an epoch, a measurement, a warning.
    return next(iter(job.child.tail(1) if job.child else ()), "starting")


def _progress(job: Job) -> str:
    try:
        rows, synthetic = job.run.log(), job.run.status().get("synthetic")
    except EqcifarError:
        return ""
    if not rows:
        return ""
    return format_row(rows[-1], job.config.epochs, "SYNTHETIC" if synthetic else "")
