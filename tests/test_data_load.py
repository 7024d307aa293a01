import io
import logging
import pwd
import time
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import config
from datasets.arrow_writer import ArrowWriter
from datasets.exceptions import DatasetNotFoundError
from PIL import Image

from eqcifar import data
from eqcifar.data import _cache, _hub
from eqcifar.errors import RunError, UsageError

NAMES = ["cat", "dog", "emu"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQCIFAR_CACHE", str(tmp_path / "cache"))


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def _arrays(n, seed, size=32):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, size, size, 3), np.uint8)
    return images, rng.permutation(n).astype(np.int32) % 3


def _rows(n=9, seed=0, *, label="label", size=32, **columns):
    images, labels = _arrays(n, seed, size)
    columns = {"img": [_png(image) for image in images], label: labels} | columns
    features = {"img": datasets.Image(), label: datasets.ClassLabel(names=NAMES)}
    for name in columns:
        features.setdefault(name, datasets.ClassLabel(names=["x", "y"]))
    features = datasets.Features(features)
    return datasets.Dataset.from_dict(columns, features=features)


def _write(folder, **splits):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        rows.to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))
    return str(folder)


@pytest.fixture
def parquet(tmp_path):
    return _write(tmp_path / "mine", train=_rows(9, 0), test=_rows(6, 1))


def _assert_is(dataset):
    for split, (images, labels) in [
        (dataset.train, _arrays(9, 0)),
        (dataset.test, _arrays(6, 1)),
    ]:
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
    assert dataset.classes == tuple(NAMES)
    assert dataset.val is None
    assert not dataset.synthetic


def test_parquet_folder(parquet):
    dataset = data.load(parquet)
    _assert_is(dataset)
    assert dataset.name == dataset.title == parquet


def test_save_to_disk_folder(tmp_path):
    rows = datasets.DatasetDict({"train": _rows(9, 0), "test": _rows(6, 1)})
    rows.save_to_disk(str(tmp_path / "disk"))
    _assert_is(data.load(str(tmp_path / "disk")))


def test_imagefolder(tmp_path):
    expected = {}
    for split, n in [("train", 9), ("test", 6)]:
        for row, (image, label) in enumerate(zip(*_arrays(n, n), strict=True)):
            folder = tmp_path / "images" / split / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{row}.png")
            expected[split, image.tobytes()] = label
    dataset = data.load(str(tmp_path / "images"))
    assert dataset.classes == tuple(NAMES)
    for name, split in dataset.splits.items():
        for image, label in zip(split.images, split.labels, strict=True):
            assert expected.pop((name, image.tobytes())) == label
    assert not expected


def test_a_folder_may_be_relative_and_is_read_again_when_it_changes(
    parquet, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    _assert_is(data.load("mine"))
    _write(tmp_path / "mine", train=_rows(12, 5))
    assert len(data.load("mine").train) == 12


def test_greys_and_palettes_become_rgb(tmp_path):
    rng = np.random.default_rng(0)
    greys = rng.integers(0, 256, (9, 32, 32), np.uint8)
    rows = _rows(9).remove_columns("img")
    rows = rows.add_column("img", [_png(grey) for grey in greys])  # pyright: ignore
    rows = rows.cast_column("img", datasets.Image())
    dataset = data.load(_write(tmp_path / "grey", train=rows, test=rows))
    for colour in range(3):
        np.testing.assert_array_equal(dataset.train.images[..., colour], greys)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": "fine_label", "coarse_label": [0] * 9}, "fine_label"),
        ({"label": "label", "other": [0] * 9}, "label"),
        ({"label": "species"}, "species"),
    ],
)
def test_label_column_is_found(tmp_path, columns, expected):
    rows = _rows(9, **columns)
    dataset = data.load(_write(tmp_path / "columns", train=rows, test=rows))
    np.testing.assert_array_equal(dataset.train.labels, rows[expected])
    assert dataset.classes == tuple(NAMES)


# What is refused, and how.


def _with_labels(rows, labels):
    """Put labels in that `datasets` itself would not let through."""
    column = rows.data.column_names.index("label")
    return rows.data.table.set_column(column, "label", [labels])


def _refused(folder, message):
    with pytest.raises(UsageError, match=message) as caught:
        data.load(str(folder))
    assert "\n" not in str(caught.value)


def test_refuses_labels_out_of_range(tmp_path):
    folder = tmp_path / "labels"
    _write(folder, train=_rows(9), test=_rows(6))
    table = _with_labels(_rows(9), [0, 1, 2, 0, 1, 2, 7, 1, 2])
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    _refused(folder, "label 7 in row 6 of split 'train' of '.*' is out of range: 3 cl")


def test_refuses_missing_labels(tmp_path):
    rows = _rows(3, label="label").remove_columns("label")
    labels = datasets.Dataset.from_dict(
        {"label": [0, None, 2]},
        features=datasets.Features(label=datasets.ClassLabel(names=NAMES)),
    )
    rows = datasets.concatenate_datasets([rows, labels], axis=1)
    folder = _write(tmp_path / "null", train=_rows(9), test=rows)
    _refused(
        folder,
        r"row 1 of split 'test' of '.*null' has no label \(1 such rows\): remove",
    )


def test_refuses_missing_labels_by_minus_one(tmp_path):
    rows = _rows(3, label="other").remove_columns("other")
    labels = datasets.Dataset.from_dict(
        {"label": [-1, -1, -1]},
        features=datasets.Features(label=datasets.ClassLabel(names=NAMES)),
    )
    rows = datasets.concatenate_datasets([rows, labels], axis=1)
    folder = _write(tmp_path / "unlabelled", train=_rows(9), test=rows)
    _refused(folder, r"label -1 in row 0 of split 'test' .*\(3 such rows\)")


def test_refuses_another_image_size(tmp_path):
    folder = _write(tmp_path / "size", train=_rows(9), test=_rows(6, size=28))
    _refused(folder, "row 0 of split 'test' of .* is 28x28 pixels, not 32x32: resize")


def test_refuses_images_it_cannot_read(tmp_path):
    rows = _rows(3)
    broken = [*rows.with_format("arrow")[:]["img"].to_pylist()]
    broken[2] = {"bytes": b"not an image", "path": None}
    rows = datasets.Dataset.from_dict(
        {"img": broken, "label": rows["label"]}, features=rows.features
    )
    folder = _write(tmp_path / "broken", train=rows, test=_rows(6))
    _refused(
        folder,
        "Cannot use the image in row 2 of split 'train' of '.*': it is not an im",
    )
    folder = _write(tmp_path / "gone", train=_rows(9), test=rows)
    table: Any = rows.data.table
    for image in (None, {"bytes": None, "path": None}):
        column = pa.array([*broken[:2], image], table.schema.field("img").type)
        gone = table.set_column(0, table.schema.field("img"), column)
        pq.write_table(gone, tmp_path / "gone" / "test-00000-of-00001.parquet")
        _refused(folder, "the image in row 2 of split 'test' of '.*' is missing")


def test_refuses_other_schemas(tmp_path):
    good = _rows(6)
    plain = good.rename_column("label", "n").cast_column("n", datasets.Value("int64"))
    folder = _write(tmp_path / "plain", train=plain, test=plain)
    _refused(folder, r"has no column of class labels \(img \(Image\), n \(Value\)\)")
    bare = good.remove_columns("img")
    folder = _write(tmp_path / "bare", train=bare, test=bare)
    _refused(folder, r"has no image column, only label \(ClassLabel\): cast one")
    two = _rows(6, label="a", b=[0] * 6)
    folder = _write(tmp_path / "two", train=two, test=two)
    _refused(folder, "has more than one column of class labels")
    (tmp_path / "nothing").mkdir()
    _refused(tmp_path / "nothing", "cannot read the folder '.*nothing' as a dataset in")


def test_refuses_splits_that_differ(tmp_path):
    names = datasets.ClassLabel(names=NAMES[::-1])
    rows = datasets.DatasetDict(
        {"train": _rows(), "test": _rows().cast_column("label", names)}
    )
    rows.save_to_disk(str(tmp_path / "names"))
    _refused(tmp_path / "names", "column 'label' of .* is ClassLabel.* in train but")


def test_refuses_missing_and_empty_splits(tmp_path):
    other = datasets.DatasetDict({"train": _rows(), "extra": _rows()})
    other.save_to_disk(str(tmp_path / "other"))
    _refused(tmp_path / "other", "has no split 'test', only 'train', 'extra': rename")
    both: Any = {"train": _rows(), "val": _rows(), "validation": _rows()}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "both"))
    _refused(tmp_path / "both", "has no split 'test', only 'train', 'val', 'valid")
    _rows().save_to_disk(str(tmp_path / "unsplit"))
    _refused(tmp_path / "unsplit", "has no splits: save a DatasetDict")
    folder = _write(tmp_path / "empty", train=_rows(), test=_rows().select([]))
    _refused(folder, "a split of '.*empty' has no examples: fill or remove it")
    rows = datasets.DatasetDict({"train": _rows(), "test": _rows().select([])})
    rows.save_to_disk(str(tmp_path / "disk"))
    _refused(tmp_path / "disk", "a split of '.*disk' has no examples: fill or remove")


@pytest.mark.parametrize(
    "name", ["cifar-10", "./nowhere", "a/b/c", "hf://datasets/a", "/etc/hostname"]
)
def test_refuses_names_it_does_not_know(name):
    _refused(name, "unknown dataset|is not of the form")


def test_options_are_checked_and_applied(parquet):
    with pytest.raises(UsageError, match="val_size is -1: give 0 or more"):
        data.load(parquet, val_size=-1)
    dataset = data.load(parquet, val_size=3, limit_train=3, limit_test=3)
    assert [len(split) for split in dataset.splits.values()] == [3, 3, 3]
    for split in dataset.splits.values():
        np.testing.assert_array_equal(np.bincount(split.labels), [1, 1, 1])


# The cache.


def test_second_load_reads_the_cache_alone(parquet, monkeypatch):
    data.load(parquet)
    monkeypatch.setattr(_hub, "open_folder", None)
    monkeypatch.setattr("eqcifar.data._load.open_folder", None)
    _assert_is(data.load(parquet))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_damaged_cache_is_built_again(parquet, damage, caplog):
    data.load(parquet)
    (path,) = data.cache_folder().glob("*.npz")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    damaged = {"cut": content[:-100], "empty": b"", "text": b"hello"}
    path.write_bytes(damaged.get(damage, content))
    with caplog.at_level(logging.WARNING, logger="eqcifar"):
        _assert_is(data.load(parquet))
    assert "damaged cache file" in caplog.text
    caplog.clear()
    _assert_is(data.load(parquet))
    assert not caplog.text
    assert not list(data.cache_folder().glob(".tmp-*"))


def test_cache_that_cannot_be_written_is_done_without(parquet, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    _assert_is(data.load(parquet))
    assert "were not kept" in caplog.text


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    assert data.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("EQCIFAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data.cache_folder() == tmp_path / "xdg" / "eqcifar"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.cache_folder() == tmp_path / ".cache" / "eqcifar"


def test_a_user_without_home_has_a_cache_until_the_process_ends(
    parquet, monkeypatch, caplog, tmp_path
):
    for variable in ("HOME", "EQCIFAR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    # As for `docker run --user 12345`.
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    monkeypatch.chdir(tmp_path)
    _cache._temporary_folder.cache_clear()
    _assert_is(data.load(parquet))
    _assert_is(data.load(parquet))
    assert len(list(data.cache_folder().glob("*.npz"))) == 1
    assert caplog.text.count("This user has no home folder") == 1
    assert not (tmp_path / "~").exists()
    with pytest.raises(UsageError, match="unknown dataset '~/x': there is no such"):
        data.load("~/x")
    _cache._temporary_folder.cache_clear()


# The hub.


def _unreachable(name="cifar10"):
    start = time.monotonic()
    with pytest.raises(RunError) as caught:
        data.load(name)
    message = str(caught.value)
    for part in (
        str(config.HF_DATASETS_CACHE),
        str(data.cache_folder()),
        "HF_HUB_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "--dataset FOLDER",
        "--dataset synthetic",
    ):
        assert part in message
    assert "\n" not in message
    return message, time.monotonic() - start


@pytest.fixture
def _empty_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "hub")


@pytest.fixture
def online(monkeypatch, _empty_hub_cache):
    """Pretend to be allowed online; `respond` is what asking the hub does."""
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)

    class Session:
        respond = staticmethod(lambda: None)

        def head(self, url, timeout):
            assert url == config.HF_ENDPOINT
            assert timeout == _hub._PROBE_SECONDS
            return self.respond()

    session = Session()
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    return session


@pytest.mark.usefixtures("_empty_hub_cache")
def test_hub_when_offline_by_choice():
    message, seconds = _unreachable("uoft-cs/cifar100")
    assert message.startswith("Cannot load 'uoft-cs/cifar100': ")
    assert "an offline variable is set" in message
    assert seconds < 5


def test_hub_without_network_fails_at_once(online):
    class ConnectError(Exception):
        pass

    def respond():
        raise ConnectError("Name or service not known\nand more")

    online.respond = respond
    message, seconds = _unreachable()
    assert "(ConnectError: Name or service not known)" in message
    assert seconds < 5
    assert not config.HF_HUB_OFFLINE


def test_hub_that_never_answers_fails_within_seconds(online, monkeypatch):
    monkeypatch.setattr(_hub, "_PROBE_SECONDS", 0.1)
    online.respond = lambda: time.sleep(10)
    message, seconds = _unreachable()
    assert "no answer within" in message
    assert seconds < 6


def test_hub_that_breaks_off_is_unreachable(online, monkeypatch):
    def broken(path, **_):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    assert "Couldn't reach the Hub" in _unreachable()[0]


@pytest.mark.parametrize("name", ["cifar10", "uoft-cs/cifar10", "hf://datasets/a/b"])
def test_hub_ids_are_not_shadowed_by_folders(online, tmp_path, monkeypatch, name):
    for shadow in ("uoft-cs/cifar10", "cifar10", "a/b"):
        _write(tmp_path / shadow, train=_rows(3), test=_rows(3))
    monkeypatch.chdir(tmp_path)
    asked = []

    def load_dataset(path, **_):
        asked.append(path)
        if config.HF_HUB_OFFLINE:
            raise ConnectionError("not cached")
        return datasets.DatasetDict({"train": _rows(9, 0), "test": _rows(6, 1)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    dataset = data.load(name)
    _assert_is(dataset)
    hub_id = "a/b" if name.endswith("a/b") else "uoft-cs/cifar10"
    assert asked == [f"hf://datasets/{hub_id}"] * 2
    assert dataset.name == ("a/b" if hub_id == "a/b" else "cifar10")
    # From now on the hub is not asked, nor the cache of `datasets`.
    _assert_is(data.load(name))
    assert len(asked) == 2


def test_hub_names_nobody_has_are_the_users_mistake(online, monkeypatch):
    def load_dataset(path, **_):
        if config.HF_HUB_OFFLINE:
            raise ConnectionError("not cached")
        raise DatasetNotFoundError("Dataset doesn't exist")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    _refused("no/such", "the hub shows no dataset 'no/such': check the name, or run")


@pytest.mark.usefixtures("_empty_hub_cache")
def test_what_datasets_has_cached_is_found_offline(tmp_path):
    folder = tmp_path / "hub" / "uoft-cs___cifar10" / "plain_text" / "0.0.0" / "abc"
    folder.mkdir(parents=True)
    splits = datasets.splits.SplitDict(dataset_name="cifar10")
    for name, rows in [("train", _rows(9, 0)), ("test", _rows(6, 1))]:
        with ArrowWriter(
            features=rows.features, path=str(folder / f"cifar10-{name}.arrow")
        ) as writer:
            writer.write_table(rows.data.table)
            writer.finalize()
        splits.add(datasets.splits.SplitInfo(name, num_examples=len(rows)))
    info = datasets.DatasetInfo(
        features=_rows().features,
        splits=splits,
        builder_name="parquet",
        dataset_name="cifar10",
        config_name="plain_text",
        version="0.0.0",
    )
    info.write_to_directory(str(folder))
    _assert_is(data.load("cifar10"))


# Export.


@pytest.mark.parametrize("form", ["parquet", "disk"])
@pytest.mark.parametrize("classes", [10, 100])
def test_export_and_load_give_the_same_arrays(tmp_path, form, classes):
    dataset = data.synthetic(classes, train=120, test=100)
    folder = data.export(dataset, tmp_path / "new" / "copy", form=form)
    copy = data.load(str(folder))
    assert copy.fingerprint == dataset.fingerprint
    assert copy.classes == dataset.classes
    assert copy.title == dataset.title
    assert copy.title.startswith("SYNTHETIC")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]


def _disk(folder) -> Any:
    return datasets.load_from_disk(str(folder))["train"]


def test_export_has_the_columns_of_cifar(tmp_path):
    dataset = data.synthetic(100, train=100, test=100)
    data.export(dataset, tmp_path / "hundred", form="disk")
    rows = _disk(tmp_path / "hundred")
    assert list(rows.features) == ["img", "fine_label", "coarse_label"]
    for row in rows:
        fine = dataset.classes[row["fine_label"]]
        coarse = rows.features["coarse_label"].int2str(row["coarse_label"])
        assert fine.rsplit(" ", 1)[0] == coarse
    data.export(data.synthetic(10, train=10, test=10), tmp_path / "ten", form="disk")
    rows = _disk(tmp_path / "ten")
    assert list(rows.features) == ["img", "label"]


def test_export_keeps_a_validation_split(parquet, tmp_path):
    held = data.with_validation(data.load(parquet), 3)
    copy = data.load(str(data.export(held, tmp_path / "held")))
    np.testing.assert_array_equal(copy.train.images, held.train.images)
    stored = datasets.load_dataset(
        str(tmp_path / "held"), cache_dir=str(tmp_path / "other")
    )
    assert stored["validation"].num_rows == 3


def test_export_does_not_write_over_anything(parquet, tmp_path):
    dataset = data.load(parquet)
    with pytest.raises(UsageError, match="'.*mine' exists already: give a new folder"):
        data.export(dataset, parquet)
    _assert_is(data.load(parquet))
    (tmp_path / "empty").mkdir()
    data.export(dataset, tmp_path / "empty")
    _assert_is(data.load(str(tmp_path / "empty")))
