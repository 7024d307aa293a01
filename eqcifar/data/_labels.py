from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int32

from ..errors import UsageError

# By these names a column is taken whatever its type, the first that there is.
_NAMES = "fine_label", "label"

Labels = dict[str, Int32[np.ndarray, " n"]]


def label_column(features: Any, name: str, hint: str = "") -> str:
    """The column of `datasets.Features` that holds the classes.

    That is `fine_label`, else `label`, else the only `ClassLabel`.

    **Arguments:**

    - `features`: of the training split.
    - `name`: of the dataset, for messages.
    - `hint`: what may be the reason where there is none.

    **Raises:**

    `UsageError` where none or several could be meant.
    """
    import datasets

    for column in _NAMES:
        if column in features:
            return column
    labels = [c for c, f in features.items() if isinstance(f, datasets.ClassLabel)]
    if len(labels) == 1:
        return labels[0]
    kinds = ", ".join(f"{c} ({type(kind).__name__})" for c, kind in features.items())
    found = "more than one" if labels else "no"
    raise UsageError(
        f"{name!r} has {found} column of class labels ({kinds}): call the one to use "
        f"'label' with `dataset.rename_column`{hint}"
    )


def read_labels(
    splits: Mapping[str, Any], column: str, name: str
) -> tuple[tuple[str, ...], Labels, str]:
    """Number the classes of each row.

    A `ClassLabel` knows its names. Whole numbers 0 to C - 1, of which none is missing,
    are their own names; strings are sorted, as class folders are.

    **Arguments:**

    - `splits`: each a `datasets.Dataset`.
    - `column`: of the labels.
    - `name`: of the dataset, for messages.

    **Returns:**

    The names of the classes, the labels by split, and what was assumed.

    **Raises:**

    `UsageError` with the first row that has no label, or what the labels are.
    """
    import datasets

    kinds = {split: rows.features[column] for split, rows in splits.items()}
    kind = kinds["train"]
    named = isinstance(kind, datasets.ClassLabel)
    for split, other in kinds.items():
        differs = other != kind if named else _family(other) != _family(kind)
        if differs:
            raise UsageError(
                f"column {column!r} of {name!r} is {kind} in train but {other} in "
                f"{split}: make them equal"
            )
    if not named and not _family(kind):
        raise UsageError(
            f"column {column!r} of {name!r} is {kind}: one class for each image is "
            f"needed, as a ClassLabel, a string or a whole number"
        )
    values = {}
    for split, rows in splits.items():
        labels = rows.select_columns([column]).with_format("arrow")[:][column]
        _refuse_missing(labels.is_null(nan_is_null=True).to_numpy(), split, name)
        values[split] = labels.to_numpy()
    if named:
        return tuple(kind.names), {s: _int32(v) for s, v in values.items()}, ""
    if _family(kind) == "text":
        for split, labels in values.items():
            _refuse_missing(labels == "", split, name)
        classes, numbers = np.unique(
            np.concatenate(list(values.values())), return_inverse=True
        )
        ends = np.cumsum([len(labels) for labels in values.values()])[:-1]
        numbered = dict(zip(values, np.split(numbers, ends), strict=True))
        note = f"column {column!r} is text: its values sorted are the classes"
        names = tuple(map(str, classes))
        return names, {s: _int32(v) for s, v in numbered.items()}, note
    found = np.unique(np.concatenate(list(values.values())))
    count = len(found)
    if not np.array_equal(found, np.arange(count)):
        listed = [f"{number:g}" for number in found]
        listed = listed if count <= 8 else [*listed[:4], "...", *listed[-2:]]
        raise UsageError(
            f"labels in column {column!r} of {name!r} are the numbers "
            f"{', '.join(listed)}, not 0 to {count - 1}: number the classes so, or "
            f"make each number a name with "
            f"`dataset.cast_column({column!r}, datasets.Value('string'))`"
        )
    names = tuple(map(str, range(count)))
    return names, {s: _int32(v) for s, v in values.items()}, "labels named by number"


def _family(kind: Any) -> str:
    import datasets

    dtype = kind.dtype if type(kind) is datasets.Value else ""
    if dtype in ("string", "large_string"):
        return "text"
    return "number" if dtype.startswith(("int", "uint", "float", "bool")) else ""


def _refuse_missing(missing: np.ndarray, split: str, name: str):
    rows = np.flatnonzero(missing)
    if len(rows):
        raise UsageError(
            f"row {rows[0]} of split {split!r} of {name!r} has no label ({len(rows)} "
            f"such rows): remove them"
        )


def _int32(labels: np.ndarray) -> Int32[np.ndarray, " n"]:
    bounds = np.iinfo(np.int32)  # What does not fit is out of range all the same.
    return np.clip(labels, bounds.min, bounds.max).astype(np.int32)
