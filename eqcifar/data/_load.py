import logging
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import PIL

from ..errors import UsageError
from ._cache import cached
from ._dataset import Dataset, Split, check, limit, with_validation
from ._decode import Decoded, decode
from ._files import list_files, outside, stamp
from ._hub import fetch, metadata_hint, open_folder, unlisted
from ._label_noise import with_label_noise
from ._synthetic import SHAPES, TEXTURED, synthetic

# What short names stand for: an id on the hub, or what makes the images.
DATASETS: dict[str, str | Callable[[], Dataset]] = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "synthetic": partial(synthetic, 10),
    "synthetic100": partial(synthetic, 100),
}
_SIZE = 32

# To be raised when the same files are read as other images, labels or notes.
_READER = 3

_log = logging.getLogger("eqcifar")


def load(
    name: str,
    *,
    val_size: int = 0,
    limit_train: int = 0,
    limit_test: int = 0,
    subset: float = 1.0,
    label_noise: float = 0.0,
    label_noise_over: str = "others",
    label_seed: int = 0,
    seed: int = 0,
) -> Dataset:
    """Load a dataset by name, checked and decoded.

    Images are decoded once and kept in `cache_folder()`. What is found there is used
    without asking the hub again: remove the folder to have it fetched anew.

    **Arguments:**

    - `name`: one of
        - `cifar10`, `cifar100`: from the Hugging Face hub;
        - `synthetic`, `synthetic100`: procedural images, see `synthetic`;
        - a local folder, in parquet, imagefolder or `save_to_disk` form;
        - `org/name` or `hf://datasets/org/name`: any dataset on the hub. Where a folder
          `org/name` exists, the first form means the folder (but never for
          `uoft-cs/cifar10` and `uoft-cs/cifar100`).

        It has splits `train` and `test` (else `validation`), images of 32 x 32 in the
        one column of images or in `image` or `img`, and labels in `fine_label`, else
        `label`, else the one `ClassLabel`: classes, strings, or the numbers 0 to C - 1.
    - `val_size`: hold that many examples out of train, see `with_validation`.
    - `limit_train`, `limit_test`: keep that many examples, see `limit`; train is cut
        after the validation split is taken. 0: all.
    - `subset`: keep that share of the training examples, rounded, likewise.
    - `label_noise`, `label_noise_over`, `label_seed`: see `with_label_noise`. Labels
        are drawn for all of train: an example has the same one in every subset, and its
        own in the validation split.
    - `seed`: of all other choices. Not the seed of a run: runs share their data.

    **Returns:**

    The dataset, named so that all spellings of one hub id are one name. Its `notes`
    are logged too.

    **Raises:**

    `eqcifar.errors.UsageError` for data that cannot be used, and
    `eqcifar.errors.RunError` where the hub cannot be reached.
    """
    for option, number in [
        ("val_size", val_size),
        ("limit_train", limit_train),
        ("limit_test", limit_test),
    ]:
        if number < 0:
            raise UsageError(f"{option} is {number}: give 0 or more")
    dataset = check(_find(name), size=_SIZE)
    if dataset.notes:
        _log.warning("%s: %s.", dataset.name, "; ".join(dataset.notes))
    dataset = with_label_noise(dataset, label_noise, label_noise_over, seed=label_seed)
    dataset = with_validation(dataset, val_size, seed=seed)
    if subset != 1:
        limit_train = _count(subset, dataset)
    return check(limit(dataset, train=limit_train, test=limit_test, seed=seed))


def _count(subset: float, dataset: Dataset) -> int:
    size = len(dataset.train)
    if not 0.5 / size < subset <= 1:
        raise UsageError(
            f"subset is {subset:g}, but train has {size} examples: choose a share from "
            f"{1 / size:.2g} to 1"
        )
    return round(subset * size)


def locate(name: str) -> str:
    """A name under which `load` finds the same data from any working folder.

    That is the absolute path of a local folder, and any other name as it is.
    """
    if name in DATASETS or name in DATASETS.values():
        return name
    folder = Path(os.path.expanduser(name))
    return str(folder.resolve()) if folder.is_dir() else name


def _find(name: str) -> Dataset:
    short = {found: short for short, found in DATASETS.items()}
    found = DATASETS.get(name, name if name in short else None)
    if callable(found):
        return found()
    if found is not None:
        return _from_hub(found, short[found])
    if name.startswith("hf://datasets/"):
        hub_id = name.removeprefix("hf://datasets/")
        if not _is_hub_id(hub_id):
            raise UsageError(f"{name!r} is not of the form hf://datasets/org/name")
        return _from_hub(hub_id, short.get(hub_id, hub_id))
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        return _from_folder(folder, name)
    if not folder.exists() and name.startswith(("/", ".", "~")):
        raise UsageError(f"unknown dataset {name!r}: there is no such folder")
    if folder.exists() or not _is_hub_id(name):
        raise UsageError(
            f"unknown dataset {name!r}: it is neither a folder here nor one of "
            f"{', '.join(DATASETS)}, nor a hub id like org/name"
        )
    return _from_hub(name, name)


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def _from_hub(hub_id: str, name: str) -> Dataset:
    key = f"hub-{hub_id.replace('/', '--')}"
    return _arrays(name, key, lambda: decode(fetch(hub_id), name, _SIZE))


def _from_folder(folder: Path, name: str) -> Dataset:
    files = list_files(str(folder))
    key = stamp(files)
    elsewhere = []

    def build() -> Decoded:
        with open_folder(name, files) as found:
            decoded = decode(found, name, _SIZE, metadata_hint(files))
            # After "::" comes the archive that a file is in.
            paths = {os.path.realpath(path.split("::")[-1]) for path in decoded.paths}
            elsewhere.extend(paths - {*files.values()})
            notes = unlisted(found, files) + outside(folder, {*files.values(), *paths})
            return decoded._replace(notes=notes + decoded.notes)

    def keep() -> bool:
        # The key knows neither files elsewhere nor what has changed meanwhile.
        return not elsewhere and stamp(list_files(str(folder))) == key

    # What a JPEG's pixels are is for its decoder to say.
    return _arrays(name, f"folder-{key}-pillow{PIL.__version__}", build, keep)


def _arrays(
    name: str,
    key: str,
    build: Callable[[], Decoded],
    keep: Callable[[], bool] = lambda: True,
) -> Dataset:
    def pack():
        classes, splits, notes, _ = build()
        check(Dataset(name, classes, splits["train"], splits["test"]), size=_SIZE)
        arrays = {"classes": np.array(classes), "notes": np.array(notes, str)}
        for split, examples in splits.items():
            arrays[f"{split}_images"] = examples.images
            arrays[f"{split}_labels"] = examples.labels
        return arrays

    arrays = cached(f"{key}-{_READER}", pack, keep)
    classes = tuple(map(str, arrays["classes"]))
    notes = tuple(map(str, arrays["notes"]))
    train = Split(arrays["train_images"], arrays["train_labels"])
    test = Split(arrays["test_images"], arrays["test_labels"])
    # Class names alone tell, so that a copy of procedural images stays marked as such
    # in whatever form it was exported or uploaded.
    procedural = classes in (SHAPES, TEXTURED)
    return Dataset(name, classes, train, test, synthetic=procedural, notes=notes)
