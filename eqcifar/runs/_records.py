import contextlib
import dataclasses
import math
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..errors import RunError, UsageError
from ._directory import Run, find_runs
from ._files import read_json

# What selects the epoch that a run is judged by, and the column it is selected on.
SELECTIONS = {"last": None, "train": "acc_tr", "val": "acc_va", "test": "acc_te"}
STATES = "done", "running", "interrupted", "failed", "unreadable"
_FORMAT = 1
_SUFFIXES = {"test": "_te", "val": "_va"}
# Bytes at the end of a log in which its last line is looked for.
_TAIL = 4096


@dataclasses.dataclass(frozen=True)
class Record:
    """What a table needs to know of a run.

    - `path`: its folder.
    - `recipe`: its configuration, whose seed is 0 whatever the run's.
    - `seed`: the run's.
    - `state`: "done", "running", "interrupted", "failed" or "unreadable".
    - `synthetic`: whether the images are procedural.
    - `data`: digest of the images, empty when the run has not read them.
    - `values`: numbers by the columns of `log.tsv` at one epoch, and of
        `sharpness.tsv`; empty unless the run is done.
    - `seconds`: spent on training; nan when it is not known.
    """

    path: Path
    recipe: TrainConfig
    seed: int
    state: str
    synthetic: bool = False
    data: str = ""
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = math.nan


def read_records(
    root: str | os.PathLike[str] = "results",
    *,
    select: str = "last",
    warn: Callable[[str], None] = warnings.warn,
) -> list[Record]:
    """What all runs in a folder and below have come to.

    **Arguments:**

    - `root`: the folder; nothing is written there.
    - `select`: "last" for a run's last epoch, or a split, "train", "val" or "test", for
        the epoch of highest accuracy on it.
    - `warn`: called with a line for each run that cannot be counted, and why.

    **Returns:**

    A record a run. Of several copies of a run there is one.

    **Raises:**

    `UsageError` when there is no such folder.
    """
    recipes = _Recipes()
    records = []
    for run in find_runs(root, warn=warn):
        try:
            records.append(_read(run, recipes, SELECTIONS[select], warn))
        except RunError as error:
            warn(f"left out {run.path}: {error}")
    return drop_copies(records, warn)


def current_state(status: Mapping[str, Any]) -> str:
    """The state that a `status.json` means now.

    A run that was killed had no time to say so: it is interrupted when its process ran
    on this host and is gone, and when it has no status yet.
    """
    state = status.get("state")
    if state == "unknown":
        return "interrupted"
    if state == "running" and status.get("host") == socket.gethostname():
        return state if _is_alive(status.get("pid")) else "interrupted"
    return state if isinstance(state, str) and state in STATES else "unreadable"


def drop_copies(records: Iterable[Record], warn: Callable[[str], None]) -> list[Record]:
    """One record for each configuration, data and seed, one that is done if any is."""
    first: dict[Any, Record] = {}
    for record in sorted(records, key=lambda record: STATES.index(record.state)):
        key = record.recipe, record.data, record.seed
        if key in first:
            warn(f"left out {record.path}: it is a copy of {first[key].path}")
        else:
            first[key] = record
    return list(first.values())


def last_values(path: Path, column: str | None = None) -> tuple[dict[str, float], int]:
    """The numbers of one row of a log, without reading all the others.

    **Arguments:**

    - `path`: of a `log.tsv`.
    - `column`: take the row with the highest value there instead of the last.

    **Returns:**

    The row by column, empty when `column` was never measured, and the number of the
    last epoch.

    **Raises:**

    `RunError` when there is no whole row, or one that is not of numbers.
    """
    columns, lines = table_lines(path, only_last=column is None)
    if not lines:
        raise RunError(f"{path} has no whole row")
    with _naming(path):
        values = _row(columns, lines[-1])
        epoch = int(values["epoch"])
        if column is not None:
            on_split = _cells(columns, lines, column)
            best = max((x for x in on_split if not math.isnan(x)), default=None)
            values = {}
            if best is not None:
                values = _row(columns, lines[on_split.index(best)])
    return values, epoch


def total_seconds(path: Path) -> float:
    """The sum of a log's column `seconds`; nan without one.

    **Raises:**

    `RunError` for what is not a number.
    """
    columns, lines = table_lines(path)
    with _naming(path):
        seconds = math.fsum(_cells(columns, lines, "seconds"))
    return seconds if "seconds" in columns else math.nan


def sharpness_values(path: Path, warn: Callable[[str], None]) -> dict[str, float]:
    """The numbers of a `sharpness.tsv`; later rows win over earlier ones.

    Where a column `split` says so, names end in `_te` or `_va`, before the `_se` of a
    standard error. Without the file there are none; `warn` is called with a line for a
    file that has none.
    """
    values = {}
    columns, lines = table_lines(path) if path.exists() else ([], [])
    for line in lines:
        row = dict(
            zip(columns, line.decode(errors="replace").split("\t"), strict=False)
        )
        suffix = _SUFFIXES.get(row.pop("split", ""), "")
        for name, text in row.items():
            base = name.removesuffix("_se")
            column = base + suffix + name[len(base) :]
            try:
                value = float(text or "nan")
            except ValueError:
                continue
            # A later row may not have measured everything again.
            if column not in values or not math.isnan(value):
                values[column] = value
    if path.exists() and not values:
        warn(f"cannot read {path}: it has no row of numbers; mend or remove the file")
    return values


def logged_values(path: Path, epoch: int) -> dict[str, float]:
    """The numbers of the last row of a `sharpness_log.tsv`, if it is of that epoch.

    Empty without the file, or when the last measurement failed.
    """
    columns, lines = table_lines(path, only_last=True) if path.exists() else ([], [])
    cells = lines[-1].decode(errors="replace").split("\t") if lines else []
    row = dict(zip(columns, cells, strict=False))
    values = {}
    if row.pop("epoch", None) == str(epoch):
        for name, text in row.items():
            with contextlib.suppress(ValueError):
                values[name] = float(text or "nan")
    return values


def table_lines(
    path: Path, *, only_last: bool = False
) -> tuple[list[str], list[bytes]]:
    """The columns and the whole lines of a TSV file; a torn last line is left out.

    With `only_last`, some lines before the last may be left out too.
    """
    try:
        with open(path, "rb") as file:
            header = file.readline()
            start, end = file.tell(), file.seek(0, os.SEEK_END)
            file.seek(max(start, end - _TAIL) if only_last else start)
            cut = file.tell() > start
            lines = file.read().split(b"\n")
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    # What follows the last line break is empty, or half a line.
    lines = lines[1:-1] if cut else lines[:-1]
    if cut and not lines:
        return table_lines(path)
    return header.rstrip(b"\n").decode(errors="replace").split("\t"), lines


class _Recipes:
    """Makes configurations, each once for all its seeds: checking them takes time."""

    def __init__(self):
        self._made: dict[str, TrainConfig] = {}

    def __call__(self, fields: dict[str, Any]) -> tuple[TrainConfig, int]:
        seed = fields.pop("seed", None)
        if type(seed) is not int:
            raise UsageError(f"seed = {seed!r}: must be of type int")
        key = repr(fields)
        if key not in self._made:
            self._made[key] = TrainConfig.from_dict(fields)
        return self._made[key], seed


def _read(
    run: Run, recipes: _Recipes, column: str | None, warn: Callable[[str], None]
) -> Record:
    fields = read_json(run.path / "config.json")
    version = fields.get("format", _FORMAT)
    if version != _FORMAT:
        raise RunError(
            f"config.json is of version {version!r}; this eqcifar reads version "
            f"{_FORMAT}: use the one that wrote it, or a newer one"
        )
    config, data = fields.get("config"), fields.get("data")
    if not isinstance(config, dict):
        raise RunError("config.json holds no configuration")
    try:
        recipe, seed = recipes(config)
    except UsageError as error:
        raise RunError(f"config.json: {error}") from error
    record = Record(
        run.path,
        recipe,
        seed,
        "unreadable",
        bool(fields.get("synthetic", recipe.dataset in ("synthetic", "synthetic100"))),
        str(data.get("sha256", "")) if isinstance(data, dict) else "",
    )
    try:
        status = run.status()
        state = current_state(status)
        if state != "done":
            return dataclasses.replace(record, state=state)
        values, epoch = last_values(run.path / "log.tsv", column)
        if epoch != recipe.epochs:
            raise RunError(f"log.tsv ends after epoch {epoch} of {recipe.epochs}")
        seconds = status.get("seconds")
        if not isinstance(seconds, float):
            seconds = total_seconds(run.path / "log.tsv")
        measures = logged_values(run.path / "sharpness_log.tsv", epoch)
        measures |= sharpness_values(run.path / "sharpness.tsv", warn)
        # The log's columns come first, and win.
        values = {**values, **measures, **values}
    except RunError as error:
        warn(f"not counted: {run.path}: {error}")
        return record
    return dataclasses.replace(record, state=state, values=values, seconds=seconds)


def _is_alive(pid: Any) -> bool:
    # On Windows, signal 0 is Ctrl-C.
    if type(pid) is not int or pid <= 0 or os.name == "nt":
        return os.name == "nt"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, ValueError, OverflowError) as error:
        raise RunError(f"{path} has a line that is not a row of the log") from error


def _row(columns: list[str], line: bytes) -> dict[str, float]:
    return dict(zip(columns, map(float, line.split(b"\t")), strict=True))


def _cells(columns: list[str], lines: list[bytes], column: str) -> list[float]:
    if column not in columns:
        return []
    # Cut from the right only as far as necessary: times stand near the end.
    after = len(columns) - columns.index(column)
    return [float(line.rsplit(b"\t", after)[-after]) for line in lines]
