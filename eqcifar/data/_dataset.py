import dataclasses
import functools
import hashlib
import os

import numpy as np
from jaxtyping import Int, Int32, UInt8

from ..errors import UsageError


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images as stored, 0 to 255 and colours last, with one label each.

    The arrays become read-only, for a run is known by their digest.

    - `labels`: the given ones, by which networks are trained and measured.
    - `true_labels`: what they are in place of, where some of them are drawn.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int32[np.ndarray, " n"]
    true_labels: Int32[np.ndarray, " n"] | None = None

    def __post_init__(self):
        for name, array in vars(self).copy().items():
            if array is None:
                continue
            array = np.asarray(array)
            if array.base is not None and array.flags.writeable:
                array = array.copy()  # What it is a view of can be written to.
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Int[np.ndarray, " m"]) -> "Split":
        """Return the examples at `index`, in that order."""
        true = None if self.true_labels is None else self.true_labels[index]
        return Split(self.images[index], self.labels[index], true)

    @property
    def truth(self) -> Int32[np.ndarray, " n"]:
        """The labels before any were drawn."""
        return self.labels if self.true_labels is None else self.true_labels

    @property
    def wrong(self) -> int:
        """How many labels are not the true ones."""
        return int(np.count_nonzero(self.labels != self.truth))

    @property
    def wrong_share(self) -> str:
        """The same, and what part they are, as text."""
        return f"{self.wrong} ({100 * self.wrong / len(self):.1f} %)"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Everything a run sees. `val` is held out of train, never out of test.

    `notes` say what was assumed where the source left it open, and what makes numbers
    mean something else, such as test images that are in train too.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    val: Split | None = None
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name to print beside any number measured on this data."""
        if not self.synthetic:
            return self.name
        return f"SYNTHETIC ({len(self.classes)} classes of procedural images)"

    @property
    def short_name(self) -> str:
        """The name without the folders that a local one is in."""
        return os.path.basename(self.name) if os.path.isabs(self.name) else self.name

    @property
    def splits(self) -> dict[str, Split]:
        """The splits there are, by name."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of class names, images and labels: the same data, the same digits."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for name, split in self.splits.items():
            digest.update(f"{name} {split.images.shape}".encode())
            digest.update(np.ascontiguousarray(split.images).data)
            digest.update(np.ascontiguousarray(split.labels, "<i4").data)
            if split.true_labels is not None:
                digest.update(np.ascontiguousarray(split.true_labels, "<i4").data)
        return digest.hexdigest()


def check(dataset: Dataset, *, size: int | None = None) -> Dataset:
    """Refuse data that would train to nonsense, before anything is compiled.

    **Arguments:**

    - `dataset`: to look at.
    - `size`: the height and width that images must have, in pixels. `None`: any, but
        the same in every split.

    **Returns:**

    The same dataset.

    **Raises:**

    `eqcifar.errors.UsageError`, which names the split and the first offending row.
    """
    count = len(dataset.classes)
    if count < 2:
        raise UsageError(f"{dataset.name!r} has {count} classes: at least 2 are needed")
    if doubled := [c for c in set(dataset.classes) if dataset.classes.count(c) > 1]:
        raise UsageError(
            f"{dataset.name!r} has more than one class {min(doubled)!r}: rename one"
        )
    for name in dataset.classes:
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise UsageError(
                f"the class {ascii(name)} of {dataset.name!r} is no text in UTF-8: "
                "rename it"
            )
    expected = dataset.train.images.shape[1:3] if size is None else (size, size)
    for name, split in dataset.splits.items():
        images, labels = split.images, split.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UsageError(
                f"images in split {name!r} of {dataset.name!r} are {images.dtype} "
                f"{images.shape}: give uint8, 0 to 255, as (n, height, width, 3)"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
            raise UsageError(
                f"labels in split {name!r} of {dataset.name!r} are {labels.dtype} "
                f"{labels.shape}: give one whole number for each image"
            )
        if len(split) == 0:
            raise UsageError(f"split {name!r} of {dataset.name!r} has no examples")
        if len(split.images) != len(split):
            raise UsageError(
                f"split {name!r} of {dataset.name!r} has {len(split.images)} images "
                f"but {len(split)} labels"
            )
        if split.images.shape[1:3] != expected:
            found = "x".join(map(str, split.images.shape[1:3]))
            raise UsageError(
                f"images in split {name!r} of {dataset.name!r} are {found} pixels, not "
                f"{expected[0]}x{expected[1]}: resize them first"
            )
        if split.true_labels is not None and split.truth.shape != labels.shape:
            raise UsageError(
                f"split {name!r} of {dataset.name!r} has {len(split.truth)} true "
                f"labels but {len(split)} labels"
            )
        wrong = np.flatnonzero((split.labels < 0) | (split.labels >= count))
        if len(wrong):
            row = wrong[0]
            raise UsageError(
                f"label {split.labels[row]} in row {row} of split {name!r} of "
                f"{dataset.name!r} is out of range: {count} classes are numbered 0 to "
                f"{count - 1} ({len(wrong)} such rows): remove or relabel them"
            )
    return dataset


def with_validation(dataset: Dataset, size: int, *, seed: int = 0) -> Dataset:
    """Hold `size` examples out of train, as evenly over the classes as train is.

    **Arguments:**

    - `dataset`: one without a validation split.
    - `size`: how many examples to hold out. 0: none.
    - `seed`: which examples. Not the seed of a run: runs share their split.

    **Returns:**

    A dataset whose `train` and `val` together are the given `train`, in its order; the
    labels of `val` are the true ones.

    **Raises:**

    `eqcifar.errors.UsageError` where a class would be left without training images.
    """
    if size == 0:
        return dataset
    if dataset.val is not None:
        raise UsageError(f"{dataset.name!r} has a validation split already")
    labels = dataset.train.truth
    held = _stratified(labels, size, len(dataset.classes), seed, "val_size")
    rest = np.setdiff1d(np.arange(len(labels)), held)
    lost = np.setdiff1d(labels, labels[rest])
    if len(lost):
        raise UsageError(
            f"val_size {size} leaves class {dataset.classes[lost[0]]!r} without "
            f"training images: train has {len(labels)}; hold out fewer"
        )
    train, val = dataset.train.take(rest), dataset.train.take(held)
    val = Split(val.images, val.truth)
    return dataclasses.replace(dataset, train=train, val=val)


def limit(dataset: Dataset, *, train: int = 0, test: int = 0, seed: int = 0) -> Dataset:
    """Keep a part of each split, as evenly over the classes as the split is.

    **Arguments:**

    - `dataset`: to take from; its validation split stays whole.
    - `train`, `test`: how many examples to keep. 0: all.
    - `seed`: which examples. Not the seed of a run: runs share their data.

    **Returns:**

    A dataset whose splits keep their order.
    """
    count = len(dataset.classes)
    splits = {}
    if train:
        kept = _stratified(dataset.train.truth, train, count, seed, "limit_train")
        splits["train"] = dataset.train.take(kept)
    if test:
        kept = _stratified(dataset.test.labels, test, count, seed, "limit_test")
        splits["test"] = dataset.test.take(kept)
    return dataclasses.replace(dataset, **splits)


def _stratified(
    labels: Int32[np.ndarray, " n"], size: int, classes: int, seed: int, option: str
) -> Int[np.ndarray, " size"]:
    """Choose `size` rows, each class by its share, rounded by largest remainder."""
    if not 0 < size <= len(labels):
        raise UsageError(
            f"{option} is {size}, but the split has {len(labels)} examples: choose a "
            f"number from 1 to {len(labels)}, or 0 to leave it whole"
        )
    counts = np.bincount(labels, minlength=classes)
    # In whole numbers: a share is size * count / n.
    shares, remainders = np.divmod(size * counts, len(labels))
    largest = np.argsort(-remainders, kind="stable")[: size - shares.sum()]
    shares[largest] += 1
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    return np.sort(order[rank < np.repeat(shares, counts)])
