import json

import numpy as np
import pytest

from eqcifar import data
from eqcifar.data import Dataset, Split

from .cli_tools import run_cli


@pytest.fixture
def mine(monkeypatch):
    """Two classes of 2x2 images in place of any dataset that is asked for."""
    images = np.zeros((4, 2, 2, 3), np.uint8)
    images[2:, :, :, 0] = 255
    images[:, :, :, 1] = 51
    train = Split(images, np.array([0, 0, 0, 1], np.int32))
    test = Split(images[:1], np.array([1], np.int32))
    dataset = Dataset("mine", ("cat", "dog"), train, test, None, True)
    monkeypatch.setattr(data, "load", lambda name: dataset)
    return dataset


@pytest.mark.usefixtures("mine")
def test_info_counts_and_measures():
    result = run_cli("data", "info", "mine", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    values = json.loads(result.stdout)
    assert values["images"] == {"train": 4, "test": 1}
    assert values["per_class"]["cat"] == {"train": 3, "test": 0}
    assert values["per_class"]["dog"] == {"train": 1, "test": 1}
    # Red is 0 in half the pixels and 1 in the others.
    assert values["mean"] == pytest.approx([0.5, 0.2, 0.0])
    assert values["std"] == pytest.approx([0.5, 0.0, 0.0])
    assert values["synthetic"] is True


@pytest.mark.usefixtures("mine")
def test_info_as_a_table():
    result = run_cli("data", "info", "mine")
    assert "SYNTHETIC" in result.stdout
    assert "2 x 2 pixels" in result.stdout
    assert [line.split() for line in result.stdout.splitlines() if "cat" in line] == [
        ["cat", "3", "0"]
    ]
    assert "mean 0.5000 0.2000 0.0000" in result.stdout


def test_export_writes_what_load_reads(mine, monkeypatch, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    split = Split(images, np.array([0, 1, 0, 1], np.int32))
    dataset = Dataset("mine", ("cat", "dog"), split, split, None, False)
    monkeypatch.setattr(data, "load", lambda name: dataset)
    folder = tmp_path / "images"
    result = run_cli("data", "export", "mine", folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"mine: wrote 4 train, 4 test images to {folder}\n"
    monkeypatch.undo()
    monkeypatch.setenv("EQCIFAR_CACHE", str(tmp_path / "cache"))
    again = data.load(str(folder))
    np.testing.assert_array_equal(again.train.images, images)
    assert again.classes == ("cat", "dog")
    result = run_cli("data", "export", folder, folder)
    assert result.exit_code == 2
    assert "exists already" in result.stderr
