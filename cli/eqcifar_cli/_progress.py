import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ._output import say


class Reporter:
    """Prints a line for each epoch, and in a terminal shows a bar below them."""

    def __init__(self, console: Console, epochs: int):
        self._console, self._epochs, self._mark = console, epochs, ""
        self.bar = make_bar(console)
        self._task = self.bar.add_task("starting", total=None)
        self._measured = 0

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: Any):
        self.bar.stop()

    def start(self, step: int, mark: str):
        """Show the bar; `mark` is printed beside every number."""
        self._mark = mark
        # A resumed run starts in the middle, which is no sign of its speed.
        self.bar.update(self._task, completed=step)
        self.bar.reset(self._task, completed=step)
        self.bar.start()

    def on_compile(self):
        """Say that the training step is being compiled, which takes its time."""
        self._show("compiling")

    def on_measure(self, epoch: int, name: str, done: int, total: int):
        """Say which measure of sharpness an epoch is at, and how far."""
        title = f"measuring sharpness after epoch {epoch}/{self._epochs}"
        if self.bar.disable:
            if epoch != self._measured:
                self._show(title)
            self._measured = epoch
        else:
            self._show(f"{title}: {name} {done} of {total}")

    def _show(self, doing: str):
        if self.bar.disable:
            self.print(doing.capitalize())
        else:
            self.bar.update(self._task, description=doing)

    def on_progress(self, progress: Any):
        """Move the bar; `progress` is an `eqcifar.training.Progress`."""
        description = (
            f"epoch {progress.epoch}/{self._epochs}  loss {progress.loss:.4f}  "
            f"{progress.images_per_second:.0f} images/s"
        )
        self.bar.update(
            self._task,
            description=description,
            completed=progress.step,
            total=progress.steps,
        )

    def on_epoch(self, row: Mapping[str, float]):
        """Print the row of a finished epoch."""
        self.print(format_row(row, self._epochs, self._mark))

    def print(self, line: str):
        """Print a line, above the bar."""
        say(line, self._console)


def make_bar(console: Console) -> Progress:
    """A bar in a terminal, for one task, that leaves nothing behind."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
        disable=not console.is_interactive,
    )


def format_row(row: Mapping[str, float], epochs: int, mark: str = "") -> str:
    """One line for a row of the log; what was not measured is left out."""
    parts = [
        f"epoch {row['epoch']:>{len(str(epochs))}.0f}/{epochs}",
        f"loss {row['loss']:.4f}",
    ]
    for name, title in (("tr", "train"), ("va", "val"), ("te", "test")):
        accuracy = row.get(f"acc_{name}", math.nan)
        if not math.isnan(accuracy):
            parts.append(f"{title} {100 * accuracy:.2f} %")
    parts.append(f"{row['images_per_s']:.0f} images/s")
    if mark:
        parts.append(mark)
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
