"""What the commands that measure sharpness have in common."""

import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eqcifar.fields import format_estimate

from ._output import console, print_warning, say
from ._progress import duration, make_bar
from ._stop import StopRequest, exit_code

if TYPE_CHECKING:
    from eqcifar.measurements import MeasuredNetwork
    from eqcifar.sharpness import Estimate


def locate(text: str) -> Path:
    """The path that stands for a run; one on the hub is pulled."""
    from eqcifar import storage

    return storage.locate_run(text)


RunPath = Annotated[
    Path | None,
    typer.Argument(
        parser=locate,
        metavar="[RUN]",
        help="Folder of a run, a model file or hf://ORG/NAME; by default the one "
        "finished last in --out.",
        show_default=False,
    ),
]
RunFolder = Annotated[
    Path,
    typer.Argument(
        parser=locate,
        metavar="RUN",
        help="Folder of a run, a model file or hf://ORG/NAME.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to look for it.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON at full precision, and nothing else.")
]

Devices = Annotated[
    int | None, typer.Option(help="Devices; all by default.", show_default=False)
]

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_ESTIMATES = 0.5


class _Stopped(Exception):
    pass


def open_run(run: Path | None, out: Path) -> "MeasuredNetwork":
    """The network to measure, with warnings about what is odd."""
    from eqcifar import measurements, storage

    from ._jax import keep_compilations

    keep_compilations()
    path = storage.latest_run(out).path if run is None else run
    trained = measurements.open_network(path)
    if not trained.same_data:
        print_warning(
            f"{trained.dataset.name} is not the data that {path} was trained on"
        )
    if trained.config.dropout:
        print_warning(
            f"dropout ({trained.config.dropout:g} in training) is off: the network is "
            "measured in inference mode"
        )
    return trained


def holds_runs(path: Path) -> bool:
    """Whether a path is a folder that is no run, but has runs below it."""
    from eqcifar import storage

    files = "config.json", "model.safetensors"
    if not path.is_dir() or any((path / name).exists() for name in files):
        return False
    return bool(storage.find_runs(path, warn=print_warning))


class Meter:
    """Shows on stderr how far a measurement is, with the estimate so far.

    A bar in a terminal, a line now and then elsewhere. At the first report after a
    signal to stop, the block ends with a line and the exit code that says so.
    """

    def __init__(self, quiet: bool = False):
        self._console = console(stderr=True, quiet=quiet)
        self._bar = make_bar(self._console)
        self.stop, self._label, self._looked = StopRequest(self._bar), "", 0.0

    def __enter__(self) -> "Meter":
        self.stop.__enter__()
        self.stop.listen()
        self._task = self._bar.add_task("starting", total=None)
        self._bar.start()
        self._printed = time.monotonic()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any):
        self._bar.stop()
        self.stop.__exit__(kind, error, traceback)
        if kind is _Stopped:
            say("Interrupted. Run the same command to go on.", self._console)
            raise typer.Exit(exit_code(self.stop.number or signal.SIGINT)) from None

    def __call__(
        self,
        split: str,
        name: str,
        done: int,
        total: int,
        sofar: "Callable[[], Estimate | None]" = lambda: None,
    ):
        """Show work done out of a whole, and the estimate so far."""
        if self.stop():
            raise _Stopped
        now, label = time.monotonic(), f"{split}: {name}"
        seldom = now - self._looked < _SECONDS_BETWEEN_ESTIMATES
        if seldom and label == self._label and done < total:
            return
        if label != self._label:
            self._bar.reset(self._task, total=total)
        self._looked, self._label = now, label
        estimate = sofar()
        if estimate is not None and math.isfinite(estimate.half_width()):
            value, error = format_estimate(estimate.value, estimate.half_width())
            label += f" {value} {plus_minus(sys.stderr)} {error}"
        self._bar.update(self._task, description=label, completed=done, total=total)
        if self._bar.disable and now - self._printed > _SECONDS_BETWEEN_LINES:
            self._printed = now
            seconds = self._bar.tasks[0].time_remaining
            left = f", {duration(seconds)} left" if seconds else ""
            self._console.print(f"{label}  {done} of {total}{left}", soft_wrap=True)


def plus_minus(stream: Any = None) -> str:
    """The sign, or what stands for it where it cannot be shown."""
    encoding = (stream or sys.stdout).encoding or "ascii"
    return "±" if encoding.lower().startswith("utf") else "+/-"
