import io
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from ..errors import UsageError
from ._dataset import Split

_ROWS = 500
# What becomes RGB without loss: greys and palettes. Transparency or CMYK would not.
_MODES = ("RGB", "L", "P", "1")


def decode(
    found: Any, name: str, size: int
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Turn a loaded `datasets.DatasetDict` into class names and arrays.

    **Arguments:**

    - `found`: as `datasets` gives it, with splits `train` and `test`.
    - `name`: to use in messages.
    - `size`: the height and width that every image must have.

    **Returns:**

    The names of the classes, and the splits by name.

    **Raises:**

    `eqcifar.errors.UsageError` where splits, columns or images are not of that form.
    """
    import datasets

    if not isinstance(found, datasets.DatasetDict):
        raise UsageError(
            f"{name!r} has no splits: save a DatasetDict with 'train' and 'test'."
        )
    if missing := {"train", "test"} - set(found):
        raise UsageError(
            f"{name!r} has no split {min(missing)!r}, only "
            f"{', '.join(map(repr, map(str, found)))}: rename or make one, for both "
            f"'train' and 'test' are needed."
        )
    features = found["train"].features
    image, label = _image_column(features, name), _label_column(features, name)
    for column in (image, label):
        if found["test"].features.get(column) != features[column]:
            raise UsageError(
                f"Column {column!r} of {name!r} is {features[column]} in train but "
                f"{found['test'].features.get(column)} in test: make them equal."
            )
    splits = {}
    for split in ("train", "test"):
        rows = found[split].cast_column(image, datasets.Image(decode=False))
        where = f"split {split!r} of {name!r}"
        if len(rows) == 0:
            raise UsageError(f"The {where} has no examples.")
        splits[split] = Split(
            _images(rows, image, where, size), _labels(rows, label, where)
        )
    return tuple(features[label].names), splits


def _image_column(features: Any, name: str) -> str:
    import datasets

    for column, feature in features.items():
        if isinstance(feature, datasets.Image):
            return column
    raise UsageError(
        f"{name!r} has no image column, only {_columns(features)}: cast one with "
        f"`dataset.cast_column(name, datasets.Image())`."
    )


def _label_column(features: Any, name: str) -> str:
    import datasets

    labels = [c for c, f in features.items() if isinstance(f, datasets.ClassLabel)]
    for column in ("fine_label", "label"):
        if column in labels:
            return column
    if len(labels) == 1:
        return labels[0]
    found = "no" if not labels else "more than one"
    raise UsageError(
        f"{name!r} has {found} column of class labels ({_columns(features)}): call the "
        f"one to use 'label', and cast it with `dataset.class_encode_column('label')` "
        f"if it is not a ClassLabel."
    )


def _columns(features: Any) -> str:
    return ", ".join(
        f"{name} ({type(kind).__name__})" for name, kind in features.items()
    )


def _labels(rows: Any, column: str, where: str) -> Int32[np.ndarray, " n"]:
    labels = rows.with_format("arrow")[:][column]
    if labels.null_count:
        row = labels.is_null().to_pylist().index(True)
        raise UsageError(f"Row {row} of {where} has no label: remove such rows.")
    bounds = np.iinfo(np.int32)  # What does not fit is out of range all the same.
    return np.clip(labels.to_numpy(), bounds.min, bounds.max).astype(np.int32)


def _images(
    rows: Any, column: str, where: str, size: int
) -> UInt8[np.ndarray, "n h w 3"]:
    # One thread: most of an image's 0.05 ms is spent in Python, and two take longer.
    images = np.empty((len(rows), size, size, 3), np.uint8)
    row = 0
    for batch in rows.with_format("arrow").iter(_ROWS):
        for encoded in batch[column].to_pylist():
            content = _pixels(encoded, f"row {row} of {where}", size)
            images[row] = np.frombuffer(content, np.uint8).reshape(size, size, 3)
            row += 1
    return images


def _pixels(encoded: dict | None, where: str, size: int) -> bytes:
    if encoded is None:
        raise UsageError(f"The image in {where} is missing: remove such rows.")
    content, path = encoded["bytes"], encoded["path"]
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            if image.size != (size, size):
                raise UsageError(
                    f"The image in {where} is {image.height}x{image.width} pixels, not "
                    f"{size}x{size}: resize the images first."
                )
            if image.mode not in _MODES:
                raise UsageError(
                    f"The image in {where} has mode {image.mode}: convert the images "
                    f"to RGB first."
                )
            return (image if image.mode == "RGB" else image.convert("RGB")).tobytes()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"The image in {where} cannot be read: {error}") from error
