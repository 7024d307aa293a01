import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import RunError
from ..sharpness import Estimate, Measured, Rows, load_rows, save_rows
from ._files import write_json

_EVERY_SECONDS = 30.0


class Partial:
    """What is known of a measurement that is not complete, kept beside its table.

    - `finished`: whole measures, by a label.
    """

    finished: dict[str, Measured]

    def __init__(self, table: Path, fingerprint: str, warn: Callable[[str], None]):
        """Read what there is.

        **Arguments:**

        - `table`: the file beside which it is kept.
        - `fingerprint`: tells equal measurements; another's is left alone.
        - `warn`: called with a line, once, when nothing can be kept.
        """
        self._table, self._fingerprint, self._warn = table, fingerprint, warn
        self._stem = f".{table.name}-{fingerprint[:12]}"
        self._file = table.with_name(f"{self._stem}.json")
        self._saved, self._works = time.monotonic(), True
        self.finished = {}
        if self._file.exists():
            try:
                found = json.loads(self._file.read_text())["finished"]
                self.finished = {label: _from_dict(m) for label, m in found.items()}
            except (ValueError, TypeError, KeyError):
                # It is only a saving of time.
                warn(f"{self._file} is damaged and not used")

    def rows(self, split: str) -> dict[str, Rows]:
        """The rows of the passes over a split, by pass."""
        found = {}
        start = f"{self._stem}-{split}-"
        for path in sorted(self._table.parent.glob(f"{start}*.npz")):
            try:
                found[path.stem[len(start) :]] = load_rows(path, self._fingerprint)
            except (ValueError, OSError, KeyError):
                self._warn(f"{path} is damaged and not used")
        return found

    def save_now_and_then(self, split: str, rows: dict[str, Rows]):
        """Save unless that was done less than half a minute ago."""
        if time.monotonic() - self._saved > _EVERY_SECONDS:
            self.save(split, rows)

    def save(self, split: str, rows: dict[str, Rows]):
        """Keep the rows of unfinished passes."""

        def write():
            for name, done in rows.items():
                path = self._table.with_name(f"{self._stem}-{split}-{name}.npz")
                if done:
                    save_rows(path, done, self._fingerprint)

        self._try(write)
        self._saved = time.monotonic()

    def finish(self, label: str, measured: Measured):
        """Keep a whole measure."""
        self.finished[label] = measured
        values = {k: dataclasses.asdict(m) for k, m in self.finished.items()}
        self._try(lambda: write_json(self._file, {"finished": values}))

    def forget(self):
        """Remove the files; what they held has been recorded."""
        for path in self._table.parent.glob(f"{self._stem}*"):
            path.unlink(missing_ok=True)

    def _try(self, write: Callable[[], None]):
        if not self._works:
            return
        try:
            write()
        except (OSError, RunError) as error:
            self._works = False
            self._warn(f"an interruption would lose what is measured: {error}")


def _from_dict(fields: dict) -> Measured:
    values = {k: Estimate(**v) for k, v in fields["values"].items()}
    return Measured(values, fields["bounds"], fields["tables"])
