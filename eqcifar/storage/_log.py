import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import RunError
from ._files import cannot_write, replacing
from ._tsv import number, table_lines

COLUMNS = (
    "epoch",
    "loss",
    "acc",
    "loss_tr",
    "acc_tr",
    "acc_tr_true",
    "loss_te",
    "acc_te",
    "loss_va",
    "acc_va",
    "weight_norm",
    "gradient_norm",
    "lr",
    "seconds",
    "images_per_s",
)


_HEADER = "\t".join(COLUMNS) + "\n"


def append_row(path: Path, row: Mapping[str, int | float]):
    """Add an epoch to a log, in full precision, and see it onto the disk.

    A column that the row lacks is nan.

    **Arguments:**

    - `path`: of the log, which need not exist.
    - `row`: numbers by column.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    cells = [repr(row.get(column, math.nan)) for column in COLUMNS]
    text = "\t".join(cells) + "\n"
    try:
        with open(path, "ab") as file:
            text = text if file.tell() else _HEADER + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def cut_log(path: Path, epochs: int) -> int:
    """Drop what a checkpoint after `epochs` epochs does not know of.

    That is the rows of later epochs, and a row that a kill left half-written. The rows
    that stay are kept to the byte.

    **Arguments:**

    - `path`: of the log.
    - `epochs`: the last epoch that the checkpoint knows of.

    **Returns:**

    How many rows are left; fewer than `epochs` when some were lost.
    """

    def is_kept(line: bytes) -> bool:
        with contextlib.suppress(ValueError):
            return _row(COLUMNS, line)["epoch"] <= epochs
        return False

    kept = list(filter(is_kept, table_lines(path)[1]))
    if not kept:
        path.unlink(missing_ok=True)
        return 0
    content = b"".join([_HEADER.encode(), *(line + b"\n" for line in kept)])
    if content != path.read_bytes():
        with replacing(path) as file:
            file.write(content)
    return len(kept)


def read_log(path: Path) -> list[dict[str, int | float]]:
    """The whole rows of a log; none when there is no log yet.

    A half-written last row is left out: the run may be going on.

    **Arguments:**

    - `path`: of the log.

    **Returns:**

    Numbers by column, a row an epoch; `epoch` is a whole number.

    **Raises:**

    `RunError` with the path and the line that is not a row of numbers, or has an
    accuracy that is not between 0 and 1.
    """
    columns, lines = table_lines(path)
    rows = []
    with _naming(path, lambda: f"line {len(rows) + 2}"):
        for line in lines:
            row = _row(columns, line)
            rows.append({**row, "epoch": int(row["epoch"])})
    return rows


def last_values(path: Path, column: str | None = None) -> tuple[dict[str, float], int]:
    """The numbers of one row of a log, without reading all the others.

    **Arguments:**

    - `path`: of a `log.tsv`.
    - `column`: take the row with the highest value there instead of the last.

    **Returns:**

    The row by column, empty when `column` was never measured, and the number of the
    last epoch.

    **Raises:**

    `RunError` when there is no whole row, and as `read_log`.
    """
    columns, lines = table_lines(path, only_last=column is None)
    if not lines:
        raise RunError(f"cannot read {path}: it has no whole row")
    with _naming(path, lambda: "its last line"):
        values = _row(columns, lines[-1])
        epoch = int(values["epoch"])
    if column is not None:
        on_split = _cells(path, columns, lines, column)
        best = max((x for x in on_split if not math.isnan(x)), default=None)
        values = {}
        if best is not None:
            at = on_split.index(best)
            with _naming(path, lambda: f"line {at + 2}"):
                values = _row(columns, lines[at])
    return values, epoch


def total_seconds(path: Path) -> float:
    """The sum of a log's column `seconds`; nan without one.

    **Arguments:**

    - `path`: of the log.

    **Returns:**

    Seconds.

    **Raises:**

    `RunError` for what is not a number.
    """
    columns, lines = table_lines(path)
    seconds = math.fsum(_cells(path, columns, lines, "seconds"))
    return seconds if "seconds" in columns else math.nan


def _row(columns: Sequence[str], line: bytes) -> dict[str, float]:
    row = dict(zip(columns, map(number, line.split(b"\t")), strict=True))
    for name, value in row.items():
        _check(name, value)
    return row


def _cells(
    path: Path, columns: list[str], lines: list[bytes], column: str
) -> list[float]:
    if column not in columns:
        return []
    # Cut from the right only as far as necessary: times stand near the end.
    after = len(columns) - columns.index(column)
    values = []
    with _naming(path, lambda: f"line {len(values) + 2}"):
        for line in lines:
            value = number(line.rsplit(b"\t", after)[-after])
            _check(column, value)
            values.append(value)
    return values


def _check(name: str, value: float):
    # Percent, or the loss in another's place, would go into a mean unseen.
    if name.partition("_")[0] == "acc" and not (0 <= value <= 1 or math.isnan(value)):
        raise _NoShare(f": {name} = {value:g} must be between 0 and 1")


class _NoShare(ValueError):
    pass


@contextlib.contextmanager
def _naming(path: Path, where: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, ValueError, OverflowError) as error:
        reason = error if isinstance(error, _NoShare) else ""
        raise RunError(
            f"cannot read {path}: {where()} is not a row of the log{reason}"
        ) from error
