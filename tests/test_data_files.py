"""A folder is read as it is now, whatever links and names it has."""

import gc
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from eqcifar import data
from eqcifar.data._files import list_files, stamp
from eqcifar.errors import UsageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQCIFAR_CACHE", str(tmp_path / "cache"))


def _save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(path)


def _make(folder, suffix="png"):
    """Two classes; the training pixels of cat are 10, and those of dog 20."""
    for split, more in (("train", 0), ("test", 1)):
        _save(folder / split / "cat" / f"0.{suffix}", 10 + more)
        _save(folder / split / "dog" / f"0.{suffix}", 20 + more)
    return folder


def _seen(folder):
    """The first pixel of each training image by class."""
    dataset = data.load(str(folder))
    return {
        dataset.classes[label]: int(image[0, 0, 0])
        for image, label in zip(dataset.train.images, dataset.train.labels, strict=True)
    }


BOTH = {"cat": 10, "dog": 20}


@pytest.mark.parametrize(
    "name", ["run[1]", "[x]/y", "a*b?", "{a,b}", "a::b", "50 %#1", ".hidden/x", "test"]
)
def test_no_part_of_a_path_is_a_pattern(tmp_path, name):
    assert _seen(_make(tmp_path / "in" / name)) == BOTH


def test_no_class_is_a_pattern(tmp_path):
    folder = _make(tmp_path / "data")
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "cat[1]*")
    assert _seen(folder) == {"cat[1]*": 10, "dog": 20}


def test_links_to_folders_and_files_are_followed(tmp_path):
    real, folder = _make(tmp_path / "real"), tmp_path / "data"
    (folder / "train" / "dog").mkdir(parents=True)
    (folder / "test").symlink_to(real / "test")
    (folder / "train" / "cat").symlink_to(real / "train" / "cat")
    (folder / "train" / "dog" / "0.png").symlink_to(real / "train" / "dog" / "0.png")
    (folder / "train" / "again").symlink_to(folder)  # Without end.
    assert _seen(folder) == BOTH
    (tmp_path / "link").symlink_to(folder)
    assert _seen(tmp_path / "link") == BOTH


def test_a_file_changed_in_place_is_read_again(tmp_path):
    folder = _make(tmp_path / "data", "bmp")
    path = folder / "train" / "cat" / "0.bmp"
    assert _seen(folder) == BOTH
    before = path.stat()
    _save(path, 30)
    # As `cp -p`, `rsync -t` and `touch -r` do.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert _seen(folder) == {"cat": 30, "dog": 20}


def test_a_file_behind_a_linked_folder_is_read_again(tmp_path):
    real, folder = _make(tmp_path / "real"), tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / split).symlink_to(real / split)
    assert _seen(folder) == BOTH
    _save(real / "train" / "cat" / "0.png", 30)
    assert _seen(folder) == {"cat": 30, "dog": 20}


def test_links_that_change_places_are_read_again(tmp_path):
    real, folder = _make(tmp_path / "real"), tmp_path / "data"
    shutil.copytree(real, folder)
    cat, dog = (folder / "train" / name / "0.png" for name in ("cat", "dog"))

    def link(to_cat, to_dog):
        for path, name in ((cat, to_cat), (dog, to_dog)):
            path.unlink()
            path.symlink_to(real / "train" / name / "0.png")

    link("cat", "dog")
    assert _seen(folder) == BOTH
    link("dog", "cat")
    assert _seen(folder) == {"cat": 20, "dog": 10}
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "emu")
    assert _seen(folder) == {"emu": 20, "dog": 10}


def test_the_stamp_does_not_know_hidden_files(tmp_path):
    folder = _make(tmp_path / "data")
    before = stamp(list_files(str(folder)))
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("")
    assert stamp(list_files(str(folder))) == before
    (folder / "more.txt").write_text("")
    assert stamp(list_files(str(folder))) != before


def test_what_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch):
    folder = _make(tmp_path / "data")
    decode = data._load.decode

    def slow(*arguments):
        decoded = decode(*arguments)
        _save(folder / "train" / "cat" / "0.png", 30)
        return decoded

    with monkeypatch.context() as patched:
        patched.setattr(data._load, "decode", slow)
        assert _seen(folder) == BOTH
    assert not list(data.cache_folder().glob("*.npz"))
    assert _seen(folder) == {"cat": 30, "dog": 20}


# `datasets` leaves such files for the garbage collector to close.
@pytest.mark.filterwarnings("ignore:unclosed file.*metadata.csv:ResourceWarning")
def test_names_the_metadata_that_leaves_images_out(tmp_path):
    folder = _make(tmp_path / "data")
    metadata = folder / "train" / "metadata.csv"
    metadata.write_text("file_name,note\ncat/0.png,x\n")
    with pytest.raises(UsageError, match="no examples .beside train/metadata.csv only"):
        data.load(str(folder))
    (folder / "test" / "metadata.csv").write_text("file_name,note\ndog/0.png,x\n")
    with pytest.raises(UsageError, match="no column of class .*beside test/metadata"):
        data.load(str(folder))
    metadata.write_text("file_name,label\ncat/0.png,tom\ndog/0.png,rex\n")
    (folder / "test" / "metadata.csv").write_text("file_name,label\ndog/0.png,rex\n")
    dataset = data.load(str(folder))
    assert dataset.classes == ("rex", "tom")
    np.testing.assert_array_equal(dataset.train.images[:, 0, 0, 0], [10, 20])
    np.testing.assert_array_equal(dataset.train.labels, [1, 0])
    assert dataset.notes[0] == (
        "1 of 4 images are left out, for test/metadata.csv lists them not"
    )
    gc.collect()
