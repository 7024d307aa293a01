import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ._cache import cached
from ._dataset import Dataset, Split, check, limit, with_validation
from ._decode import decode
from ._hub import fetch, open_folder
from ._synthetic import SHAPES, TEXTURED, synthetic

_HUB_IDS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
_SYNTHETIC = {"synthetic": 10, "synthetic100": 100}
_SIZE = 32

_Decoded = tuple[tuple[str, ...], dict[str, Split]]


def load(
    name: str,
    *,
    val_size: int = 0,
    limit_train: int = 0,
    limit_test: int = 0,
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
        - `org/name` or `hf://datasets/org/name`: any dataset on the hub with splits
          `train` and `test`, and images of 32 x 32. Where a folder `org/name` exists,
          the first form means the folder (but never for `uoft-cs/cifar10` and
          `uoft-cs/cifar100`).
    - `val_size`: hold that many examples out of train, see `with_validation`.
    - `limit_train`, `limit_test`: keep that many examples, see `limit`; train is cut
        after the validation split is taken. 0: all.
    - `seed`: of these choices. Not the seed of a run: runs share their data.

    **Returns:**

    The dataset, named so that all spellings of one hub id are one name.

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
            raise UsageError(f"{option} is {number}: give 0 or more.")
    dataset = check(_find(name), size=_SIZE)
    dataset = with_validation(dataset, val_size, seed=seed)
    return check(limit(dataset, train=limit_train, test=limit_test, seed=seed))


def locate(name: str) -> str:
    """A name under which `load` finds the same data from any working folder.

    That is the absolute path of a local folder, and any other name as it is.
    """
    if name in _SYNTHETIC or name in _HUB_IDS or name in _HUB_IDS.values():
        return name
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def _find(name: str) -> Dataset:
    if name in _SYNTHETIC:
        return synthetic(_SYNTHETIC[name])
    short = {hub_id: short for short, hub_id in _HUB_IDS.items()}
    if name in _HUB_IDS or name in short:
        return _from_hub(_HUB_IDS.get(name, name), short.get(name, name))
    if name.startswith("hf://datasets/"):
        hub_id = name.removeprefix("hf://datasets/")
        if not _is_hub_id(hub_id):
            raise UsageError(f"{name!r} is not of the form hf://datasets/org/name.")
        return _from_hub(hub_id, short.get(hub_id, hub_id))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder, name)
    if not folder.exists() and name.startswith(("/", ".", "~")):
        raise UsageError(f"Unknown dataset {name!r}: there is no such folder.")
    if folder.exists() or not _is_hub_id(name):
        raise UsageError(
            f"Unknown dataset {name!r}: it is neither a folder here nor one of "
            f"{', '.join([*_HUB_IDS, *_SYNTHETIC])}, nor a hub id like org/name."
        )
    return _from_hub(name, name)


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def _from_hub(hub_id: str, name: str) -> Dataset:
    key = f"hub-{hub_id.replace('/', '--')}"
    return _arrays(name, key, lambda: decode(fetch(hub_id), name, _SIZE))


def _from_folder(folder: Path, name: str) -> Dataset:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        stat = path.stat()
        line = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n"
        digest.update(line.encode())

    def build():
        with open_folder(folder) as found:
            return decode(found, name, _SIZE)

    return _arrays(name, f"folder-{digest.hexdigest()[:24]}", build)


def _arrays(name: str, key: str, build: Callable[[], _Decoded]) -> Dataset:
    def pack():
        classes, splits = build()
        check(Dataset(name, classes, splits["train"], splits["test"]), size=_SIZE)
        arrays = {"classes": np.array(classes)}
        for split, examples in splits.items():
            arrays[f"{split}_images"] = examples.images
            arrays[f"{split}_labels"] = examples.labels
        return arrays

    arrays = cached(key, pack)
    classes = tuple(map(str, arrays["classes"]))
    train = Split(arrays["train_images"], arrays["train_labels"])
    test = Split(arrays["test_images"], arrays["test_labels"])
    # Class names alone tell, so that a copy of procedural images stays marked as such
    # in whatever form it was exported or uploaded.
    procedural = classes in (SHAPES, TEXTURED)
    return Dataset(name, classes, train, test, synthetic=procedural)
