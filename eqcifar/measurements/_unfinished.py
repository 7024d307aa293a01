import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import RunError
from ..sharpness import Estimate, Measured, Rows, load_rows, save_rows
from ..storage import read_json, write_json

_EVERY_SECONDS = 30.0


class Unfinished:
    """What is known of a measurement that is not complete, kept beside its table.

    Its pieces are in `.npz` files, see `eqcifar.sharpness.Rows`.

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
        self._when, self._works = time.monotonic(), True
        self._saved: dict[tuple[str, str], dict[int, Path]] = {}
        self.finished = {}
        if self._file.exists():
            try:
                found = read_json(self._file)["finished"]
                self.finished = {label: _from_dict(m) for label, m in found.items()}
            except (RunError, ValueError, TypeError, KeyError):
                # It is only a saving of time.
                warn(f"{self._file} is damaged and not used")

    @contextlib.contextmanager
    def keeping(
        self, label: str
    ) -> Iterator[tuple[dict[str, Rows], Callable[[], None]]]:
        """The pieces kept under a label, by pass, and what saves more now and then.

        They are saved, too, when an error or a request to stop leaves the block.
        """
        rows = self._load(label)
        try:
            yield rows, lambda: self._save_now_and_then(label, rows)
        except BaseException:
            self._save(label, rows)
            raise

    def _load(self, label: str) -> dict[str, Rows]:
        found: dict[str, Rows] = {}
        for path in sorted(self._table.parent.glob(f"{self._stem}-{label}-*.npz")):
            name = path.stem.removeprefix(f"{self._stem}-{label}-").rsplit(".", 1)[0]
            try:
                rows = load_rows(path, self._fingerprint)
            except (ValueError, OSError, KeyError):
                self._warn(f"{path} is damaged and not used")
                continue
            found.setdefault(name, {}).update(rows)
            self._saved.setdefault((label, name), {}).update(dict.fromkeys(rows, path))
        return found

    def _save_now_and_then(self, label: str, rows: dict[str, Rows]):
        if time.monotonic() - self._when > _EVERY_SECONDS:
            self._save(label, rows)

    def _save(self, label: str, rows: dict[str, Rows]):
        # A file holds the pieces that are new, so that none is written twice.
        def write():
            for name, done in rows.items():
                saved = self._saved.setdefault((label, name), {})
                if saved.keys() - done.keys():
                    for path in set(saved.values()):
                        path.unlink(missing_ok=True)
                    saved.clear()
                new = {number: done[number] for number in done.keys() - saved.keys()}
                if new:
                    end = f"{label}-{name}.{min(new)}.npz"
                    path = self._table.with_name(f"{self._stem}-{end}")
                    save_rows(path, new, self._fingerprint)
                    saved.update(dict.fromkeys(new, path))

        self._try(write)
        self._when = time.monotonic()

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
