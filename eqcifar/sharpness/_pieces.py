"""Long computations in pieces, which are kept as they are found, and reported on.

What computes says `page`, `piece`, `whole` and `tell`; who calls it says with `keeping`
where the pieces go, and so can go on where an earlier call was interrupted.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, MutableMapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from eqcifar.errors import UsageError
from eqcifar.storage import open_regular, replacing

# Pieces by number, each worth keeping by itself: of a pass over examples the rows of a
# batch, of Lanczos a step, of a mean a random vector.
Rows = MutableMapping[int, dict[str, np.ndarray]]


# Called with the work done, the whole, and the pieces of the page at hand.
Told = Callable[[int, int, Rows], None]


def _silent(done: int, total: int, rows: Rows):
    pass


@dataclasses.dataclass(frozen=True)
class _Book:
    pages: MutableMapping[str, Rows]
    report: Told
    page: str = ""

    @property
    def rows(self) -> Rows:
        return self.pages.setdefault(self.page, {})


_BOOK: ContextVar[_Book | None] = ContextVar("_BOOK", default=None)


@contextlib.contextmanager
def _opened(book: _Book | None) -> Iterator[None]:
    before = _BOOK.set(book)
    try:
        yield
    finally:
        _BOOK.reset(before)


@contextlib.contextmanager
def keeping(
    pages: MutableMapping[str, Rows],
    report: Told = _silent,
) -> Iterator[None]:
    """Keep the pieces of what is computed in this block, and report on them.

    An equal computation that finds the pieces of an interrupted one goes on with it,
    and returns the same bits.

    **Arguments:**

    - `pages`: the pieces by what they are of; read and filled.
    - `report`: called with the work done, the whole, and the pieces so far of what is
        at hand. It may raise, to stop.
    """
    with _opened(_Book(pages, report)):
        yield


@contextlib.contextmanager
def page(
    name: str, *, before: int = 0, total: int | None = None, silent: bool = False
) -> Iterator[Rows]:
    """Keep the pieces in this block apart from others, which bear the same numbers.

    **Arguments:**

    - `before`, `total`: the work done before this block, and with it and after it,
        where its work is a part.
    - `silent`: nothing in this block is reported on.

    **Returns:**

    The pieces that there are.
    """
    book = _BOOK.get()
    if book is None:
        yield {}
        return
    path = "-".join(part for part in (book.page, name) if part)
    told = book.report

    def report(done: int, whole: int, rows: Rows):
        told(before + done, total or whole, rows)

    book = _Book(book.pages, _silent if silent else report, path)
    with _opened(book):
        yield book.rows


def piece(number: int, find: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """The piece of that number: as it was kept, or else found, and kept.

    What `find` computes is neither kept nor reported on.
    """
    book = _BOOK.get()
    rows = {} if book is None else book.rows
    if number not in rows:
        with _opened(None):
            rows[number] = {k: np.asarray(value) for k, value in find().items()}
    return rows[number]


def whole(find: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """A result as it was kept, or else found from pieces of its own, which then go."""
    with page("") as rows:
        if -1 not in rows:
            found = {k: np.asarray(value) for k, value in find().items()}
            rows.clear()
            rows[-1] = found
        return rows[-1]


def tell(done: int, total: int):
    """Report the work done, and the whole."""
    teller()(done, total)


def teller() -> Callable[[int, int], None]:
    """`tell` as it is here, for what is called within a piece."""
    book = _BOOK.get()
    if book is None:
        return lambda done, total: None
    return lambda done, total: book.report(done, total, book.rows)


def save_rows(path: str | os.PathLike[str], rows: Rows, fingerprint: str) -> None:
    """Store pieces of an unfinished measurement, replacing the file in one step.

    **Arguments:**

    - `path`: an `.npz` file.
    - `rows`: the pieces, by the number of their batch.
    - `fingerprint`: says what is being measured; `load_rows` insists on the same.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    arrays: dict[str, Any] = {
        f"{i}:{k}": v for i, row in rows.items() for k, v in row.items()
    }
    arrays["fingerprint"] = np.array(fingerprint)
    with replacing(Path(path)) as file:
        np.savez(file, **arrays)


def load_rows(path: str | os.PathLike[str], fingerprint: str) -> Rows:
    """Read pieces of an unfinished measurement; none when there is no file.

    **Raises:**

    `UsageError` when the file belongs to another measurement.
    """
    rows: Rows = {}
    if not os.path.exists(path):
        return rows
    with open_regular(Path(path)) as raw, np.load(raw, allow_pickle=False) as file:
        if str(file["fingerprint"]) != fingerprint:
            raise UsageError(
                f"{path} holds the partial sums of another measurement: delete it, or "
                "repeat the measurement that wrote it"
            )
        for name in file.files:
            if name != "fingerprint":
                index, key = name.split(":", 1)
                rows.setdefault(int(index), {})[key] = file[name]
    return rows
