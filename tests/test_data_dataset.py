import dataclasses

import numpy as np
import pytest

from eqcifar.data import Dataset, Split, check, limit, with_validation
from eqcifar.errors import UsageError


def _split(labels, size=4):
    labels = np.asarray(labels, np.int32)
    # The row's number is in the pixels, to follow rows through every split.
    images = np.zeros((len(labels), size, size, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    return Split(images, labels)


def _rows(split):
    return split.images[:, 0, 0, 0].astype(int) * 256 + split.images[:, 0, 0, 1]


def _dataset(train, test=(0, 1), classes=3):
    names = tuple("abcdefghij"[:classes])
    return Dataset("toy", names, _split(train), _split(test))


@pytest.fixture
def uneven():
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    return _dataset(np.random.default_rng(0).permutation(labels))


@pytest.mark.parametrize("size", [1, 7, 100, 333, 997])
def test_validation_holds_out_each_class_by_its_share(uneven, size):
    held = with_validation(uneven, size)
    assert held.val is not None
    counts = np.bincount(held.val.labels, minlength=3)
    assert counts.sum() == size == 1000 - len(held.train)
    np.testing.assert_array_less(np.abs(counts - size * np.array([0.5, 0.3, 0.2])), 1)
    both = np.concatenate([_rows(held.train), _rows(held.val)])
    np.testing.assert_array_equal(np.sort(both), np.arange(1000))
    for split in (held.train, held.val):
        assert (np.diff(_rows(split)) > 0).all()
        np.testing.assert_array_equal(split.labels, uneven.train.labels[_rows(split)])
    assert held.test is uneven.test


def test_validation_is_drawn_at_random_but_always_the_same(uneven):
    def held(**seed):
        return _rows(with_validation(uneven, 100, **seed).splits["val"])

    np.testing.assert_array_equal(held(), held())
    assert set(held()) != set(held(seed=1))
    assert 400 < held().mean() < 600
    assert with_validation(uneven, 0) is uneven


def test_validation_leaves_every_class_something_to_train_on():
    dataset = _dataset([0] * 50 + [1] * 50 + [2])
    assert len(with_validation(dataset, 50).train) == 51
    with pytest.raises(UsageError, match="leaves class 'c' without training images"):
        with_validation(dataset, 90)
    with pytest.raises(UsageError, match="val_size is 102, but the split has 101"):
        with_validation(dataset, 102)
    with pytest.raises(UsageError, match="has a validation split already"):
        with_validation(with_validation(dataset, 10), 10)


def test_limit_keeps_each_class_by_its_share(uneven):
    cut = limit(uneven, train=100, test=1)
    np.testing.assert_array_equal(np.bincount(cut.train.labels), [50, 30, 20])
    assert len(cut.test) == 1
    assert len(limit(uneven, train=100).test) == 2
    with pytest.raises(UsageError, match="limit_train is 1001, but the split has 1000"):
        limit(uneven, train=1001)


def test_fingerprint_sees_every_part(uneven):
    held = with_validation(uneven, 10)
    seen = {uneven.fingerprint, held.fingerprint}
    seen.add(dataclasses.replace(uneven, classes=("a", "b", "d")).fingerprint)
    labels = uneven.train.labels.copy()
    labels[0] = (labels[0] + 1) % 3
    changed = Split(uneven.train.images, labels)
    seen.add(dataclasses.replace(uneven, train=changed).fingerprint)
    images = uneven.test.images.copy()
    images[1, 3, 3, 2] ^= 1
    changed = Split(images, uneven.test.labels)
    seen.add(dataclasses.replace(uneven, test=changed).fingerprint)
    assert len(seen) == 5
    assert with_validation(uneven, 10).fingerprint == held.fingerprint


def test_arrays_that_are_known_by_a_digest_cannot_be_written_to():
    images, labels = np.zeros((3, 4, 4, 3), np.uint8), np.zeros(3, np.int32)
    split = Split(images[:2], labels[:2])
    assert not split.images.flags.writeable
    images[0], labels[0] = 1, 1  # A view would show it.
    assert not split.images.any()
    assert not split.labels.any()
    split = Split(images, labels)
    for array in (images, labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 2
    assert split.labels[0] == 1


def test_title_names_synthetic_images_so(uneven):
    assert uneven.title == "toy"
    marked = dataclasses.replace(uneven, synthetic=True)
    assert marked.title == "SYNTHETIC (3 classes of procedural images)"


def test_check_passes_good_data_on(uneven):
    assert check(uneven, size=4) is uneven


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a",)}, "has 1 classes: at least 2 are needed"),
        ({"classes": ("a", "b", "a")}, "has more than one class 'a': rename one"),
        ({"test": _split([])}, "split 'test' of 'toy' has no examples"),
        ({"val": _split([0], 5)}, "split 'val' of 'toy' are 5x5 pixels, not 4x4"),
        (
            {"test": _split([0, 1, 3, 3])},
            r"label 3 in row 2 of split 'test' of 'toy' is out of range: 3 classes are "
            r"numbered 0 to 2 \(2 such rows\)",
        ),
        ({"train": _split([0, 1, 2, -1])}, "label -1 in row 3 of split 'train'"),
    ],
)
def test_check_refuses(uneven, change, message):
    with pytest.raises(UsageError, match=message):
        check(dataclasses.replace(uneven, **change))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("images", np.zeros((2, 4, 4, 3)), r"are float64 \(2, 4, 4, 3\): give uint8"),
        ("images", np.zeros((2, 3, 4, 4), np.uint8), r"uint8 \(2, 3, 4, 4\): give"),
        ("labels", np.array([0, np.nan]), r"are float64 \(2,\): give one whole number"),
        ("labels", np.eye(2, dtype=int), r"are int64 \(2, 2\): give one whole number"),
    ],
)
def test_check_refuses_what_is_not_typed_so(uneven, name, array, message):
    # As without the type checks that pytest runs under.
    test = object.__new__(Split)
    for field in ("images", "labels"):
        object.__setattr__(test, field, getattr(uneven.test, field))
    object.__setattr__(test, name, array)
    with pytest.raises(UsageError, match=message):
        check(dataclasses.replace(uneven, test=test))


def test_check_refuses_another_size(uneven):
    with pytest.raises(UsageError, match="are 4x4 pixels, not 32x32: resize them"):
        check(uneven, size=32)
