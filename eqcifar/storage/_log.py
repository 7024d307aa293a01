import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import RunError
from ._check import CHECK, changed, check_of
from ._files import cannot_write, replacing
from ._tsv import TAKE_AS_IT_IS, number, table_lines

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


_NAMES = "\t".join(COLUMNS).encode()


_HEADER = _NAMES + f"\t{CHECK}\n".encode()


def append_row(path: Path, row: Mapping[str, int | float]):
    """Add an epoch to a log, in full precision, and see it onto the disk.

    A column that the row lacks is nan. The column `check` has a CRC-32 of the others,
    which reading compares.

    **Arguments:**

    - `path`: of the log, which need not exist.
    - `row`: numbers by column.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    cells = [repr(row.get(column, math.nan)) for column in COLUMNS]
    line = _with_check("\t".join(cells).encode())
    try:
        with open(path, "ab") as file:
            file.write(line if file.tell() else _HEADER + line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def cut_log(path: Path, epochs: int) -> int:
    """Drop what a checkpoint after `epochs` epochs does not know of.

    That is the rows of later epochs, a row that a kill left half-written, and one that
    was changed since. The rows that stay are kept to the byte; they get their `check`
    where they have none.

    **Arguments:**

    - `path`: of the log.
    - `epochs`: the last epoch that the checkpoint knows of.

    **Returns:**

    How many rows are left; fewer than `epochs` when some were lost.
    """
    columns, lines = table_lines(path)
    of_ours = _without_check(columns) == [*COLUMNS]

    def is_kept(line: bytes) -> bool:
        with contextlib.suppress(ValueError):
            return of_ours and _row(columns, line)["epoch"] <= epochs
        return False

    kept = list(filter(is_kept, lines))
    if not kept:
        path.unlink(missing_ok=True)
        return 0
    if CHECK in columns:
        kept = [line.rpartition(b"\t")[0] for line in kept]
    content = b"".join([_HEADER, *map(_with_check, kept)])
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

    `RunError` with the path and the line that is not a row of numbers, has an accuracy
    that is not between 0 and 1 or an epoch that is not after the one before, or was
    changed since it was written.
    """
    columns, lines = table_lines(path)
    rows: list[dict[str, int | float]] = []
    with _naming(path, lambda: f"line {len(rows) + 2}"):
        for line in lines:
            row = _row(columns, line)
            epoch = int(row["epoch"])
            if rows and epoch <= rows[-1]["epoch"]:
                raise _Implausible(f": epoch {epoch} is not after the one before")
            rows.append({**row, "epoch": epoch})
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


def _with_check(line: bytes) -> bytes:
    return line + f"\t{check_of(line, _NAMES)}\n".encode()


def _without_check(columns: Sequence[str]) -> list[str]:
    return [name for name in columns if name != CHECK]


def _whole(columns: Sequence[str], line: bytes) -> tuple[Sequence[str], bytes]:
    """The columns and cells that are numbers, where the row is as it was written."""
    if columns[-1] != CHECK:
        return columns, line
    names = columns[:-1]
    cells, _, check = line.rpartition(b"\t")
    if check and check != check_of(cells, "\t".join(names).encode()).encode():
        raise _Changed
    return names, cells


def _row(columns: Sequence[str], line: bytes) -> dict[str, float]:
    columns, line = _whole(columns, line)
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
    after = len(_without_check(columns)) - columns.index(column)
    values = []
    with _naming(path, lambda: f"line {len(values) + 2}"):
        for line in lines:
            value = number(_whole(columns, line)[1].rsplit(b"\t", after)[-after])
            _check(column, value)
            values.append(value)
    return values


def _check(name: str, value: float):
    # Percent, or the loss in another's place, would go into a mean unseen.
    if name.partition("_")[0] == "acc" and not (0 <= value <= 1 or math.isnan(value)):
        raise _Implausible(f": {name} = {value:g} must be between 0 and 1")


class _Implausible(ValueError):
    pass


class _Changed(ValueError):
    pass


@contextlib.contextmanager
def _naming(path: Path, where: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except _Changed as error:
        raise changed(f"cannot read {path}: {where()}", TAKE_AS_IT_IS) from error
    except (KeyError, IndexError, ValueError, OverflowError) as error:
        reason = error if isinstance(error, _Implausible) else ""
        raise RunError(
            f"cannot read {path}: {where()} is not a row of the log{reason}"
        ) from error
