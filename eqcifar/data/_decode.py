import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ..errors import UsageError
from ._dataset import Split
from ._labels import label_column, read_labels
from ._read_image import upright_rgb

_ROWS = 500
_IMAGES = "image", "img"
# In place of a split `test`, where there is one of them.
_VALIDATION = "validation", "valid", "val"


class Decoded(NamedTuple):
    """Class names and arrays, and how they came about.

    - `notes`: what had to be assumed.
    - `paths`: the files that rows refer to, of all that do not hold their image.
    """

    classes: tuple[str, ...]
    splits: dict[str, Split]
    notes: list[str]
    paths: list[str]


def decode(found: Any, name: str, size: int, hint: str = "") -> Decoded:
    """Turn a loaded `datasets.DatasetDict` into class names and arrays.

    **Arguments:**

    - `found`: as `datasets` gives it, with splits `train` and `test`.
    - `name`: to use in messages.
    - `size`: the height and width that every image must have.
    - `hint`: why there may be no labels.

    **Raises:**

    `eqcifar.errors.UsageError` where splits, columns or images are not of that form, or
    could mean two things.
    """
    import datasets

    notes = []
    splits = _find_splits(found, name, notes)
    features = splits["train"].features
    image, label = _image_column(features, name), label_column(features, name, hint)
    for column in (image, label):
        if column not in splits["test"].features:
            raise UsageError(
                f"column {column!r} of {name!r} is in train but not in test: make the "
                f"splits equal"
            )
    for split, rows in splits.items():
        if len(rows) == 0:
            raise UsageError(f"the split {split!r} of {name!r} has no examples")
    classes, labels, note = read_labels(splits, label, name)
    notes += [note] if note else []
    assumed, paths, decoded = Counter(), [], {}
    for split, rows in splits.items():
        rows = rows.select_columns([image])
        rows = rows.cast_column(image, datasets.Image(decode=False))
        images = _images(rows, f"split {split!r} of {name!r}", size, assumed, paths)
        decoded[split] = Split(images, labels[split])
    notes += [f"{what} ({count} images)" for what, count in assumed.items()]
    return Decoded(classes, decoded, notes + _overlaps(classes, decoded), paths)


def _find_splits(found: Any, name: str, notes: list[str]) -> dict[str, Any]:
    import datasets

    if not isinstance(found, datasets.DatasetDict):
        raise UsageError(
            f"{name!r} has no splits: save a DatasetDict with 'train' and 'test'"
        )
    instead = [split for split in _VALIDATION if split in found]
    test = instead[0] if "test" not in found and len(instead) == 1 else "test"
    if missing := {"train", test} - set(found):
        raise UsageError(
            f"{name!r} has no split {min(missing)!r}, only "
            f"{', '.join(map(repr, map(str, found)))}: rename or make one, for both "
            f"'train' and 'test' are needed"
        )
    if test != "test":
        notes.append(f"test = {test}")
    return {"train": found["train"], "test": found[test]}


def _image_column(features: Any, name: str) -> str:
    import datasets

    images = [c for c, kind in features.items() if isinstance(kind, datasets.Image)]
    named = [column for column in images if column in _IMAGES]
    if len(images) == 1 or len(named) == 1:
        return (named or images)[0]
    if images:
        raise UsageError(
            f"{name!r} has {len(images)} image columns, {', '.join(images)}: call the "
            f"one to use 'image' with `dataset.rename_column`, or remove the others"
        )
    kinds = ", ".join(f"{c} ({type(kind).__name__})" for c, kind in features.items())
    raise UsageError(
        f"{name!r} has no image column, only {kinds}: cast one with "
        f"`dataset.cast_column(name, datasets.Image())`"
    )


def _images(
    rows: Any, where: str, size: int, assumed: Counter[str], paths: list[str]
) -> UInt8[np.ndarray, "n h w 3"]:
    # One thread: most of an image's 0.05 ms is spent in Python, and two take longer.
    images = np.empty((len(rows), size, size, 3), np.uint8)
    row = 0
    for batch in rows.with_format("arrow").iter(_ROWS):
        for encoded in batch.column(0).to_pylist():
            encoded: dict[str, Any] = encoded or {"bytes": None, "path": None}
            problem = f"Cannot use the image in row {row} of {where}"
            if encoded["bytes"] is not None:
                file = io.BytesIO(encoded["bytes"])
            elif encoded["path"] is not None:
                paths.append(encoded["path"])
                file = _open(encoded["path"], problem)
            else:
                raise UsageError(
                    f"the image in row {row} of {where} is missing: remove such rows"
                )
            image = upright_rgb(file, problem, size=size, assumed=assumed)
            images[row] = np.asarray(image)
            row += 1
    return images


def _open(path: str, problem: str) -> str | io.BytesIO:
    from datasets.utils.file_utils import xopen

    if "://" not in path:
        return path
    # What a table of images names is not fetched: who wrote it may be anybody.
    if "://" in path.split("::")[-1]:
        raise UsageError(f"{problem}: it is at {path}: fetch such images first")
    try:
        with xopen(path, "rb") as file:  # In an archive, for instance.
            return io.BytesIO(file.read())
    except (OSError, ValueError) as error:
        raise UsageError(f"{problem}: {error}") from error


def _overlaps(classes: tuple[str, ...], splits: Mapping[str, Split]) -> list[str]:
    """Say what makes the test's numbers mean something else."""
    train, test = splits["train"], splits["test"]
    notes = []
    seen = set(map(_digest, train.images))
    if both := sum(_digest(image) in seen for image in test.images):
        notes.append(f"{both} of {len(test)} test images are in train too")
    absent = np.setdiff1d(np.arange(len(classes)), train.labels)
    if len(absent):
        listed = ", ".join(repr(classes[label]) for label in absent[:3])
        listed += ", ..." if len(absent) > 3 else ""
        notes.append(
            f"{len(absent)} of {len(classes)} classes have no training images: {listed}"
        )
    return notes


def _digest(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
