import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter:
    """Prints a line for each epoch, and in a terminal shows a bar below them."""

    def __init__(self, console: Console, epochs: int):
        self._console, self._epochs, self._mark = console, epochs, ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("compiling", total=None)

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: Any):
        self._bar.stop()

    def start(self, step: int, mark: str):
        """Show the bar; `mark` is printed beside every number."""
        self._mark = mark
        # A resumed run starts in the middle, which is no sign of its speed.
        self._bar.update(self._task, completed=step)
        self._bar.reset(self._task, completed=step)
        self._bar.start()

    def on_progress(self, progress: Any):
        """Move the bar; `progress` is an `eqcifar.training.Progress`."""
        description = (
            f"epoch {progress.epoch}/{self._epochs}  loss {progress.loss:.4f}  "
            f"{progress.images_per_second:.0f} images/s"
        )
        self._bar.update(
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
        self._console.print(line, soft_wrap=True)


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
