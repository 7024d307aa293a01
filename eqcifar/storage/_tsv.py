"""The one way in which a run's tables are read, log.tsv and sharpness.tsv."""

import os
from pathlib import Path

from ..errors import RunError
from ._check import CHECK
from ._files import open_regular

# What to do with a row that was changed on purpose.
TAKE_AS_IT_IS = f"empty its cell in the column {CHECK}"


# Bytes at the end of a file in which its last line is looked for.
_TAIL = 4096


def table_lines(
    path: Path, *, only_last: bool = False
) -> tuple[list[str], list[bytes]]:
    """The columns and the whole lines of a TSV file; a torn last line is left out.

    With `only_last`, some lines before the last may be left out too. Without the file
    there are none of either.

    **Raises:**

    `RunError` with the path and the reason when it cannot be read, or two columns have
    one name.
    """
    try:
        with open_regular(path) as file:
            header = file.readline()
            start, end = file.tell(), file.seek(0, os.SEEK_END)
            file.seek(max(start, end - _TAIL) if only_last else start)
            cut = file.tell() > start
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    # What follows the last line break is empty, or half a line.
    lines = lines[1:-1] if cut else lines[:-1]
    if cut and not lines:
        return table_lines(path)
    columns = header.rstrip(b"\r\n").decode(errors="replace").split("\t")
    twice = [name for name in set(columns) if columns.count(name) > 1]
    if lines and twice:
        raise RunError(
            f"cannot read {path}: it has two columns {min(twice)!r}; mend or remove it"
        )
    return columns, lines


def number(cell: bytes | str) -> float:
    """The number that a cell holds.

    **Raises:**

    `ValueError` for anything else, also for what only Python takes for a number, such
    as `1_0`.
    """
    text = cell.decode() if isinstance(cell, bytes) else cell
    if "_" in text:
        raise ValueError(f"{text!r} is not a number")
    return float(text)
