"""What is a label, which column holds it, and what is said about the answer."""

import io
import logging
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from eqcifar import data
from eqcifar.errors import UsageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQCIFAR_CACHE", str(tmp_path / "cache"))


def _image(number):
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def _rows(labels, kind, first=0, *, images=("image",), label="label"):
    columns = {
        name: [_image(first + row + 128 * column) for row in range(len(labels))]
        for column, name in enumerate(images)
    }
    features = {name: datasets.Image() for name in images} | {label: kind}
    return datasets.Dataset.from_dict(
        columns | {label: list(labels)}, features=datasets.Features(features)
    )


def _load(tmp_path, **splits):
    folder = tmp_path / "data"
    rows: Any = splits
    datasets.DatasetDict(rows).save_to_disk(str(folder))
    return data.load(str(folder))


def _value(dtype):
    return datasets.Value(dtype)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", "bool"])
def test_numbers_from_0_are_their_own_names(tmp_path, dtype, caplog):
    train, test = [1, 0, 1, 0], [0, 1]
    with caplog.at_level(logging.WARNING, logger="eqcifar"):
        dataset = _load(
            tmp_path,
            train=_rows(train, _value(dtype)),
            test=_rows(test, _value(dtype), 9),
        )
    np.testing.assert_array_equal(dataset.train.labels, train)
    np.testing.assert_array_equal(dataset.test.labels, test)
    assert dataset.train.labels.dtype == np.int32
    assert dataset.classes == ("0", "1")
    assert dataset.notes == ("labels named by number",)
    assert caplog.messages == [f"{tmp_path / 'data'}: labels named by number."]


def test_numbers_keep_their_order_past_9(tmp_path):
    numbers = np.random.default_rng(0).permutation(12)
    kinds = _value("int32"), _value("int64")
    dataset = _load(
        tmp_path, train=_rows(numbers, kinds[0]), test=_rows([11], kinds[1], 20)
    )
    np.testing.assert_array_equal(dataset.train.labels, numbers)
    assert dataset.classes == tuple(map(str, range(12)))


def test_strings_are_sorted_as_class_folders_are(tmp_path):
    text = _value("string")
    dataset = _load(
        tmp_path,
        train=_rows(["dog", "cat", "dog", "emu"], text),
        test=_rows(["emu", "cat"], text, 9),
    )
    np.testing.assert_array_equal(dataset.train.labels, [1, 0, 1, 2])
    np.testing.assert_array_equal(dataset.test.labels, [2, 0])
    assert dataset.classes == ("cat", "dog", "emu")
    assert dataset.notes == (
        "column 'label' is text: its values sorted are the classes",
    )


def test_the_cache_says_again_what_was_assumed(tmp_path):
    first = _load(
        tmp_path,
        train=_rows([0, 1, 1], _value("int8")),
        validation=_rows([0, 1], _value("int8"), 9),
    )
    assert first.notes == ("test = validation", "labels named by number")
    np.testing.assert_array_equal(first.test.images[:, 0, 0, 0], [9, 10])
    assert data.load(str(tmp_path / "data")).notes == first.notes


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3], "are the numbers 1, 2, 3, not 0 to 2: number the classes so, or"),
        ([0, 1, 3], "are the numbers 0, 1, 3, not 0 to 2"),
        ([-1, 0, 1], "are the numbers -1, 0, 1, not 0 to 2"),
        ([0, 0.5, 1], "are the numbers 0, 0.5, 1, not"),
        ([float("nan"), 0, 1], r"row 0 of split 'train' .* has no label \(1 such rows"),
        ([0, 1, None], "row 2 of split 'train' .* has no label"),
        ([0, 0, 0], "has 1 classes: at least 2 are needed"),
        (list(range(5, 15)), r"are the numbers 5, 6, 7, 8, \.\.\., 13, 14, not 0 to 9"),
    ],
)
def test_refuses_numbers_that_could_mean_two_things(tmp_path, labels, message):
    rows = _rows(labels, _value("float64"))
    with pytest.raises(UsageError, match=message) as caught:
        _load(tmp_path, train=rows, test=rows)
    assert "\n" not in str(caught.value)


def test_what_the_refusal_advises_settles_it(tmp_path):
    rows = _rows([1, 2, 3], _value("int64")).cast_column("label", _value("string"))
    dataset = _load(tmp_path, train=rows, test=rows)
    np.testing.assert_array_equal(dataset.train.labels, [0, 1, 2])
    assert dataset.classes == ("1", "2", "3")


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        (_value("string"), ["a", "", "b"], "row 1 of split 'train' .* has no label"),
        (_value("string"), ["a", None, "b"], "row 1 of split 'train' .* has no label"),
        (datasets.List(_value("int64")), [[0], [1], [0]], "one class for each image"),
        (_value("timestamp[s]"), [0, 1, 2], "one class for each image is needed"),
    ],
)
def test_refuses_what_is_no_label(tmp_path, kind, labels, message):
    rows = _rows(labels, kind)
    with pytest.raises(UsageError, match=message):
        _load(tmp_path, train=rows, test=rows)


def test_refuses_labels_of_two_kinds(tmp_path):
    text, number = _rows(["a", "b"], _value("string")), _rows([0, 1], _value("int8"))
    with pytest.raises(UsageError, match="is Value.* in train but Value.* in test"):
        _load(tmp_path, train=text, test=number)


@pytest.mark.parametrize(
    ("images", "first"),
    [(("mask", "image"), 128), (("img", "depth"), 0), (("photo",), 0)],
)
def test_the_column_of_images(tmp_path, images, first):
    rows = _rows([0, 1], _value("int8"), images=images)
    dataset = _load(tmp_path, train=rows, test=rows)
    np.testing.assert_array_equal(dataset.train.images[:, 0, 0, 0], [first, first + 1])


@pytest.mark.parametrize("images", [("left", "right"), ("img", "image")])
def test_refuses_two_columns_of_images(tmp_path, images):
    rows = _rows([0, 1], _value("int8"), images=images)
    with pytest.raises(UsageError, match=f"2 image columns, {', '.join(images)}: call"):
        _load(tmp_path, train=rows, test=rows)


def test_says_what_makes_the_numbers_mean_something_else(tmp_path):
    names = datasets.ClassLabel(names=list("abcdef"))
    dataset = _load(
        tmp_path,
        train=_rows([0, 1, 1], names),
        # The last two training images and another.
        test=_rows([1, 1, 5], names, 1),
    )
    assert dataset.notes == (
        "2 of 3 test images are in train too",
        "4 of 6 classes have no training images: 'c', 'd', 'e', ...",
    )


def test_one_image_in_each_split(tmp_path):
    names = datasets.ClassLabel(names=["a", "b"])
    dataset = _load(tmp_path, train=_rows([1], names), test=_rows([0], names, 9))
    np.testing.assert_array_equal(dataset.train.labels, [1])
    assert dataset.notes == ("1 of 2 classes have no training images: 'a'",)
