import dataclasses
import json
import re

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from eqcifar import data, exchange, models, runs, storage
from eqcifar.errors import UsageError
from eqcifar.runs import CheckpointError
from eqcifar.storage._log import append_row
from eqcifar.training import TrainConfig, predict

from .cli_tools import run_cli
from .helpers import SmallNet, random_network, small_dataset

CONFIG = TrainConfig(
    arch="resnet8",
    width=0.25,
    dataset="synthetic",
    limit_train=40,
    limit_test=20,
    batch_size=20,
)
SMALL = (eqx.nn.make_with_state(SmallNet),)


@pytest.fixture(scope="module")
def dataset():
    return data.load("synthetic", limit_train=40, limit_test=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):
    """A run's folder, as training leaves it."""
    path = tmp_path_factory.mktemp("run")
    train_state = random_network(models.create, "resnet8", 10, width=0.25)
    train_state = dataclasses.replace(train_state, step=jnp.asarray(10, jnp.int32))
    environment = {"versions": {"jax": "1.2.3"}, "devices": {"kind": "cpu", "count": 1}}
    runs.save_model(
        path / "model.safetensors", train_state, CONFIG, dataset, environment
    )
    examples = {"train": 40, "test": 20}
    config = {"config": CONFIG.to_dict(), "data": {"examples": examples}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "status.json").write_text(json.dumps({"state": "done"}))
    append_row(path / "log.tsv", {"epoch": 5, "acc_te": 0.25, "loss_te": 0.5})
    # Of an epoch after the checkpoint.
    append_row(path / "log.tsv", {"epoch": 6, "acc_te": 0.75, "loss_te": 0.25})
    return storage.Run(path)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return exchange.export_model(run, tmp_path_factory.mktemp("exported") / "new")


def test_logits_are_the_same_to_the_bit(run, exported, dataset):
    before, after = runs.load_model(run), runs.load_model(exported)
    images = dataset.test.images
    logits = predict(before.model, before.state, images, before.config)
    again = predict(after.model, after.state, images, after.config)
    assert np.array_equal(logits, again)
    assert np.isfinite(logits).all()
    assert np.ptp(logits) > 0
    assert (before.config, before.classes) == (after.config, after.classes)
    for key in ("data", "step", "environment", "normalisation"):
        assert before.header[key] == after.header[key]
    # The folder stands for the file.
    assert eqx.tree_equal(runs.load_model(exported.parent).model, before.model)


def test_any_reader_finds_the_named_numbers(run, exported):
    loaded = runs.load_model(run)
    wanted = runs.named_arrays(loaded.model, loaded.state)
    found = safetensors.numpy.load_file(exported)
    assert set(found) == set(wanted)
    assert {"stem.weight", "norm.running_var"} <= set(found)
    for name, array in wanted.items():
        assert np.array_equal(found[name], np.asarray(array))
        assert found[name].dtype == array.dtype
    with safetensors.safe_open(exported, "numpy") as file:
        about = json.loads(file.metadata()["eqcifar"])
    assert about["classes"] == list(loaded.classes)
    assert TrainConfig.from_dict(about["config"]) == CONFIG


def test_pytorch_reads_it(run, exported):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    loaded, found = runs.load_model(run), load_file(exported)
    weight = found[next(name for name in found if found[name].ndim == 4)]
    # A convolution's weight is used as PyTorch would.
    assert torch.nn.functional.conv2d(
        torch.ones(1, weight.shape[1], 8, 8), weight
    ).any()
    for name, array in runs.named_arrays(loaded.model, loaded.state).items():
        assert np.array_equal(found[name].numpy(), np.asarray(array))


def test_eval_takes_the_file(run, exported, dataset, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: dataset)
    measured = []
    for path in (run.path, exported):
        result = run_cli("eval", path, "--json")
        assert result.exit_code == 0, repr(result.exception)
        measured.append({**json.loads(result.stdout), "run": None})
    assert measured[0] == measured[1]
    assert measured[0]["examples"] == 20


def test_the_card_says_what_it_is(exported, dataset):
    card = (exported.parent / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: eqcifar\n")
    for part in (
        "# resnet8 on synthetic",
        "**procedural images, no photographs**",
        "epoch 5, the last; nothing was selected",
        "on 20 test images: accuracy 0.2500 (0.1119 to 0.4687, 95 %), loss 0.5000",
        "(0.5, 0.5, 0.5) is subtracted",
        "cut to [0, 1], which need not sum to 1",
        "| `width` | `0.25` | `1.0` |",
        "- versions: jax 1.2.3",
        "- devices: kind cpu, count 1",
    ):
        assert part in card
    assert "train images" not in card
    assert "nan" not in card
    assert "| `lr`" not in card
    assert ", ".join(dataset.classes) in card


def test_the_same_numbers_are_the_same_bytes(run, exported, tmp_path):
    again = exchange.export_model(run.path / "model.safetensors", tmp_path)
    assert again.read_bytes() == exported.read_bytes()
    assert again.read_bytes() == (run.path / "model.safetensors").read_bytes()
    assert "Results" not in (tmp_path / "README.md").read_text()


def test_the_command_writes_into_the_run(run):
    path = run.path / "export" / "model.safetensors"
    for _ in range(2):
        result = run_cli("export", run.path)
        assert (result.exit_code, result.stderr) == (0, "")
        assert str(path) in result.stdout
    assert runs.load_model(path).config == CONFIG


def test_other_peoples_folders_are_left_alone(run, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    result = run_cli("export", run.path, "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == f"Error: {tmp_path} exists already: give a new folder\n"
    assert (tmp_path / "README.md").read_text() == "mine"


def test_damage_is_found(exported, tmp_path):
    good, path = exported.read_bytes(), tmp_path / "bad.safetensors"
    rng = np.random.default_rng(0)
    for i in range(100):
        content = bytearray(good)
        where = int(rng.integers(len(good)))
        if i % 2:
            del content[where:]
        else:
            content[where] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            runs.load_model(path)


def test_files_of_others_are_refused(exported, tmp_path):
    path = tmp_path / "other.safetensors"
    tensors = safetensors.numpy.load_file(exported)
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(CheckpointError, match="does not say what it holds"):
        runs.load_model(path)
    with safetensors.safe_open(exported, "numpy") as file:
        metadata = file.metadata()
    about = json.loads(metadata["eqcifar"])
    newer = {"eqcifar": json.dumps({**about, "format": 99})}
    safetensors.numpy.save_file(tensors, path, newer)
    with pytest.raises(CheckpointError, match="has format 99; .* format 1"):
        runs.load_model(path)
    name = next(iter(tensors))
    safetensors.numpy.save_file({**tensors, name: tensors[name] + 1}, path, metadata)
    with pytest.raises(CheckpointError, match="damaged, or was changed"):
        runs.load_model(path)
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "no.safetensors"))):
        runs.load_model(tmp_path / "no.safetensors")


def test_a_network_of_ones_own(tmp_path):
    config = TrainConfig(batch_size=16)
    net, other = (random_network(*SMALL, seed=seed) for seed in (0, 1))
    runs.save_model(tmp_path / "model.safetensors", net, config, small_dataset())
    like = other.model, other.state
    path = exchange.export_model(tmp_path, tmp_path / "export", like=like)
    loaded = runs.load_model(path, like=like)
    assert eqx.tree_equal((loaded.model, loaded.state), (net.model, net.state))
    lacking = (
        r"linear.weight is float32\[4, 6\] there, but float32\[7, 6\] in the model"
    )
    larger = random_network(*SMALL, classes=7)
    with pytest.raises(CheckpointError, match=lacking):
        runs.load_model(path, like=(larger.model, larger.state))
