"""The columns of `sharpness.tsv` and `sharpness_log.tsv`: measures and their splits."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from ..config import PARTS
from ._records import Record

SPLITS = {"": "train", "_te": "test", "_va": "val"}


_HOW = rf"(_(?P<loss>{'|'.join(PARTS['loss'])}))?(_onehot)?(_trainmode)?(@\S+?)?"


_COLUMN = re.compile(rf"(?P<name>.+?{_HOW})(?P<end>_te|_va)?")


_NAME = re.compile(rf"(?P<base>.+?){_HOW}")


@dataclasses.dataclass(frozen=True)
class Column:
    """A measure, as its column is named.

    - `name`: the column's, without the split.
    - `end`: that of the split, a key of `SPLITS`.
    - `base`: the measure, without a loss, labels, mode or parameters that are not
        the run's own.
    - `loss`: that loss, or empty.
    """

    name: str
    end: str
    base: str
    loss: str

    @property
    def split(self) -> str:
        """The name of the split."""
        return SPLITS[self.end]


def parse_column(column: str) -> Column:
    """Take the name of a column apart; one that is not made of parts is its own."""
    match = _COLUMN.fullmatch(column)
    name, end = (match["name"], match["end"] or "") if match else (column, "")
    parts = _NAME.fullmatch(name)
    base, loss = (parts["base"], parts["loss"] or "") if parts else (name, "")
    return Column(name, end, base, loss)


def error_of(values: Mapping[str, int | float], column: str) -> float:
    """The standard error of a number: nan where nothing tells it."""
    return float(values.get(f"{column}_se", math.nan))


def images_of(record: Record, column: str) -> int | None:
    """On how many images a number rests."""
    basis = record.bases.get(column)
    return None if basis is None else basis.images


def show_range(counts: Iterable[int | None]) -> str:
    """Numbers from the least to the most: "1000", or "20 to 100"; empty for none."""
    known = sorted({count for count in counts if count is not None})
    if not known:
        return ""
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def group_equal(
    columns: Sequence[str], rows: Iterable[Mapping[str, int | float]]
) -> dict[str, list[str]]:
    """Join columns whose numbers are the same in all rows.

    So it is with the traces of the Hessian and the GGN where logits are affine in each
    layer, and with that of the NTK where the loss is quadratic.

    **Returns:**

    For the first column of each kind, the others.
    """
    rows = list(rows)
    groups: dict[tuple[str, ...], list[str]] = {}
    for column in columns:
        key = (
            *(repr(row.get(column, math.nan)) for row in rows),
            parse_column(column).end,
        )
        groups.setdefault(key, []).append(column)
    return {first: others for first, *others in groups.values()}
