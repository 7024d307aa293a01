"""What was measured of a run's final network, and which measurement counts."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..errors import RunError
from ._growing_table import read_wide
from ._tsv import number

# Columns that say how a row was measured; two rows that differ here are of two kinds.
CONVENTION = (
    *("loss_name", "loss_smoothing", "labels", "target"),
    *("precision", "batch_size", "original_devices"),
)


# What a row says of itself, beside its measures and their numbers of images.
ABOUT = "time", "epoch", "data", "step", "probes", "sample_seed", *CONVENTION


_IMAGES = "examples"


_SPLITS = "_te", "_va"


_ERRORS = "_se", "_bound"


@dataclasses.dataclass(frozen=True)
class Basis:
    """What a measure rests on.

    - `images`: how many; `None` where the file does not say.
    - `convention`: how it was measured, by the columns that say so.
    """

    images: int | None
    convention: tuple[tuple[str, str], ...]


def read_measures(
    folder: Path, epochs: int, warn: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, Basis]]:
    """The measures of `sharpness.tsv`, and of `sharpness_log.tsv` after the last epoch.

    Of each measure, the row from the most images counts, and of several such the last:
    its value, standard error and bound. Conventions are never mixed in one number.

    **Arguments:**

    - `folder`: of the run.
    - `epochs`: that the run takes.
    - `warn`: called with a line for a file that has none.

    **Returns:**

    Numbers by column, and by measure what they rest on.
    """
    path, log = folder / "sharpness.tsv", folder / "sharpness_log.tsv"
    rows = []
    try:
        logged = read_wide(log, only_last=True)
        rows += [row for row in logged if row.get("epoch") == str(epochs)]
        rows += (table := read_wide(path))
    except RunError as error:
        warn(str(error))
        return {}, {}
    if not any(map(_measures, table)) and path.exists():
        warn(f"cannot read {path}: it has no row of numbers; mend or remove the file")
    best: dict[str, tuple[tuple[int, int], Mapping[str, str]]] = {}
    for at, row in enumerate(rows):
        for name in _measures(row):
            rank = _images(row, name) or 0, at
            if name not in best or rank > best[name][0]:
                best[name] = rank, row
    values, bases = {}, {}
    for name, (_, row) in best.items():
        values |= _values(row, name)
        bases[name] = _basis(row, name)
    return values, bases


def read_each_measure(path: Path) -> Iterator[tuple[str, dict[str, float], Basis]]:
    """All that a `sharpness.tsv` holds, whichever of it counts.

    **Arguments:**

    - `path`: of the file; one that is not there holds nothing.

    **Returns:**

    For each measure of each row, its column, its numbers by column, and their basis.

    **Raises:**

    `RunError` for a file that is no such table.
    """
    for row in read_wide(path):
        for name in _measures(row):
            yield name, _values(row, name), _basis(row, name)


def _values(row: Mapping[str, str], name: str) -> dict[str, float]:
    ends = ("", *(end for end in _ERRORS if f"{name}{end}" in row))
    return {f"{name}{end}": _number(row, f"{name}{end}") for end in ends}


def _basis(row: Mapping[str, str], name: str) -> Basis:
    convention = ((how, row[how]) for how in CONVENTION if row.get(how))
    return Basis(_images(row, name), tuple(convention))


def _measures(row: Mapping[str, str]) -> list[str]:
    return [
        name
        for name in row
        if not math.isnan(_number(row, name)) and not _is_about(name, row)
    ]


def _is_about(name: str, row: Mapping[str, str]) -> bool:
    if not name or name in ABOUT or name.partition("_")[0] == _IMAGES:
        return True
    ends = *_ERRORS, f"_{_IMAGES}"
    return any(name.endswith(end) and name.removesuffix(end) in row for end in ends)


def _images(row: Mapping[str, str], name: str) -> int | None:
    split = next((end for end in _SPLITS if name.endswith(end)), "")
    # A measure that took fewer than others of its row says so.
    own, count = f"{name}_{_IMAGES}", f"{_IMAGES}{split}"
    number = _number(row, own if row.get(own) else count)
    return int(number) if math.isfinite(number) else None


def _number(row: Mapping[str, str], name: str) -> float:
    with contextlib.suppress(ValueError):
        return number(row.get(name) or "nan")
    return math.nan


def read_sharpness_log(path: Path) -> dict[int, dict[str, float]]:
    """The numbers of a `sharpness_log.tsv` by epoch; none without the file.

    Of several rows of an epoch, each number is the last.

    **Arguments:**

    - `path`: of the file.

    **Returns:**

    By epoch, numbers by column.

    **Raises:**

    `RunError` for a file that is not such a log.
    """
    rows: dict[int, dict[str, float]] = {}
    for row in read_wide(path):
        try:
            rows.setdefault(int(row["epoch"]), {}).update(
                (name, float(text))
                for name, text in row.items()
                if text and name not in ABOUT
            )
        except (KeyError, ValueError) as error:
            raise RunError(
                f"cannot read {path}: it has a row without an epoch, or a cell that is "
                "no number; mend or remove the file"
            ) from error
    return rows
