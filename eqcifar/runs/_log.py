import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import RunError
from ._files import cannot_write, replacing

COLUMNS = (
    "epoch",
    "loss",
    "acc",
    "loss_tr",
    "acc_tr",
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

    **Returns:**

    How many rows are left; fewer than `epochs` when some were lost.
    """
    lines = _lines(path)
    kept = []
    for line in lines[1:]:
        row = _parse(line, COLUMNS)
        if row is not None and row["epoch"] <= epochs:
            kept.append(line)
    if not kept:
        path.unlink(missing_ok=True)
        return 0
    content = [_HEADER.encode(), *kept]
    if content != lines:
        with replacing(path) as file:
            file.writelines(content)
    return len(kept)


def read_log(path: Path) -> list[dict[str, int | float]]:
    """The whole rows of a log; none when there is no log yet.

    A half-written last row is left out: the run may be going on.

    **Raises:**

    `RunError` with the path and the line that is not a row of numbers.
    """
    lines = _lines(path)
    columns = lines[0].decode(errors="replace").split() if lines else []
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        row = _parse(line, columns)
        if row is not None:
            rows.append(row)
        elif line.endswith(b"\n"):
            raise RunError(f"cannot read {path}: line {number} is not a row of the log")
    return rows


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _parse(line: bytes, columns: Sequence[str]) -> dict[str, int | float] | None:
    cells = line.split(b"\t")
    if not line.endswith(b"\n") or len(cells) != len(columns):
        return None
    try:
        row: dict[str, int | float]
        row = dict(zip(columns, map(float, cells), strict=True))
        row["epoch"] = int(row["epoch"])
    except (KeyError, ValueError, OverflowError):
        return None
    return row
