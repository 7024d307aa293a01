import contextlib
import math
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class Reporter:
    """Prints a line for each epoch, and in a terminal a bar below them."""

    def __init__(self, console: Console, epochs: int, mark: str):
        self._console, self._epochs, self._mark = console, epochs, mark
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[speed]:.0f} images/s"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: Any = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Show the bar meanwhile."""
        with self._bar:
            yield

    def on_progress(self, progress: Any):
        """Move the bar; `progress` is an `eqcifar.training.Progress`."""
        values = {
            "epoch": f"{progress.epoch}/{self._epochs}",
            "loss": progress.loss,
            "speed": progress.images_per_second,
        }
        if self._task is None:
            # A resumed run starts in the middle, which is no sign of its speed.
            self._task = self._bar.add_task(
                "", total=progress.steps, completed=progress.step, **values
            )
        else:
            self._bar.update(self._task, completed=progress.step, **values)

    def on_epoch(self, row: dict[str, float]):
        """Print the row of a finished epoch."""
        self.print(format_row(row, self._epochs, self._mark))

    def print(self, line: str):
        """Print a line, above the bar."""
        self._console.print(line, soft_wrap=True)


def format_row(row: dict[str, float], epochs: int, mark: str = "") -> str:
    """One line for a row of the log; what was not measured is left out."""
    parts = [
        f"epoch {row['epoch']:>{len(str(epochs))}.0f}/{epochs}",
        f"loss {row['loss']:.4f}",
    ]
    for name, title in (("tr", "train"), ("va", "val"), ("te", "test")):
        accuracy = row.get(f"acc_{name}", math.nan)
        if not math.isnan(accuracy):
            parts.append(f"{title} {accuracy:6.2%}".replace("%", " %"))
    parts.append(f"{row['images_per_s']:.0f} images/s")
    if mark:
        parts.append(mark)
    return "  ".join(parts)
