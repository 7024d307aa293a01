import math
from collections.abc import Callable, Mapping
from pathlib import Path

import filelock

from ..errors import RunError
from ._check import CHECK, LOOKS_LIKE_CHECK, changed, check_of
from ._files import replacing
from ._tsv import TAKE_AS_IT_IS, table_lines

Cell = str | int | float


def append_wide(path: Path, row: Mapping[str, Cell]):
    """Add a row to a TSV file, whole or not at all; new columns go to the right.

    Numbers keep full precision. A cell is empty where a row lacks a column, and where
    a number is not finite. A last line that a kill left torn is dropped. The column
    `check`, always the last, has a CRC-32 of each row, which reading compares.

    **Arguments:**

    - `path`: of the table, which need not exist.
    - `row`: its cells by column.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    _append(path, row, lambda there, new: False)


def append_once(path: Path, row: Mapping[str, Cell], *, but: str):
    """Add a row as `append_wide` does, unless there is one with the same cells.

    **Arguments:**

    - `path`, `row`: as for `append_wide`.
    - `but`: a column that may differ, such as the time.
    """

    def same(there, new):
        filled = {name: cell for name, cell in there.items() if cell and name != but}
        return filled == {k: x for k, x in new.items() if x and k != but}

    _append(path, row, same)


def _append(
    path: Path,
    row: Mapping[str, Cell],
    same: Callable[[Mapping[str, str], Mapping[str, str]], bool],
):
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        columns, rows = _read(path)
        new = {name: _text(value) for name, value in row.items()}
        if any(same(there, new) for there in rows):
            return
        columns += [name for name in row if name not in columns]
        _write(path, columns, [*rows, new])


def keep_rows(path: Path, wanted: Callable[[Mapping[str, str]], bool]):
    """Drop the rows of a TSV file that are not wanted.

    **Arguments:**

    - `path`: of the table.
    - `wanted`: says of a row, its cells by column, whether it stays.
    """
    if path.exists():
        columns, rows = _read(path)
        kept = [row for row in rows if wanted(row)]
        if len(kept) < len(rows):
            _write(path, columns, kept)


def read_wide(path: Path, *, only_last: bool = False) -> list[dict[str, str]]:
    """The rows of such a file, or the last one; none without one.

    **Arguments:**

    - `path`: of the table.
    - `only_last`: read no more of it than its last row.

    **Returns:**

    Cells by column, as text, a row each.
    """
    rows = _read(path, only_last)[1]
    return rows[-1:] if only_last else rows


def _read(
    path: Path, only_last: bool = False
) -> tuple[list[str], list[dict[str, str]]]:
    columns, lines = table_lines(path, only_last=only_last)
    if not any(columns):
        return [], []
    rows = []
    for number, line in enumerate(lines[-1:] if only_last else lines, 2):
        where = "its last line" if only_last else f"line {number}"
        cells = line.decode(errors="replace").split("\t")
        # A row with a check was written whole.
        if len(cells) > len(columns) or (
            CHECK in columns and len(cells) < len(columns)
        ):
            raise RunError(
                f"cannot read {path}: {where} has {len(cells)} cells for "
                f"{len(columns)} columns; mend or remove the file"
            )
        row = dict(zip(columns, cells, strict=False))
        check = row.pop(CHECK, "")
        # Where the column's name was changed too, it is still seen.
        if check != _check(row) if check else LOOKS_LIKE_CHECK.search(line):
            raise changed(f"cannot read {path}: {where}", TAKE_AS_IT_IS)
        rows.append(row)
    return [name for name in columns if name != CHECK], rows


def _check(row: Mapping[str, str]) -> str:
    # Of cells that are not empty, so that later columns change nothing.
    filled = [(name, cell) for name, cell in row.items() if cell]
    names, cells = zip(*filled, strict=True) if filled else ((), ())
    return check_of("\t".join(cells).encode(), "\t".join(names).encode())


def _write(path: Path, columns: list[str], rows: list[dict[str, str]]):
    table = [[*columns, CHECK]]
    table += ([*(row.get(x, "") for x in columns), _check(row)] for row in rows)
    with replacing(path) as file:
        file.writelines("\t".join(cells).encode() + b"\n" for cells in table)


def _text(value: Cell) -> str:
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else ""
    return " ".join(str(value).split())
