import contextlib
import hashlib
import io
import json
import pickle
import re
import tracemalloc
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import models, runs, storage
from eqcifar.errors import RunError, UsageError
from eqcifar.runs import CheckpointError, named_arrays, with_arrays
from eqcifar.runs._checkpoint import _NO_DIGEST, open_checkpoint, write_checkpoint
from eqcifar.training import TrainConfig, initialise

from .helpers import small_dataset, small_net

CONFIG = TrainConfig(batch_size=16)
SOURCE = Path(runs.__file__).parent.parent


def start(seed=0, config=CONFIG, **kwargs):
    return initialise(*small_net(seed, **kwargs), config, 64)


def busy(seed=0):
    """A state none of whose numbers is the one that it starts with."""
    rng = np.random.default_rng(seed)

    def other(leaf):
        if not eqx.is_array(leaf):
            return leaf
        return jnp.asarray(rng.integers(1, 1000, leaf.shape) / 7, leaf.dtype)

    return jax.tree.map(other, start())


def save(path, train_state=None):
    train_state = busy() if train_state is None else train_state
    runs.save_checkpoint(path, train_state, CONFIG, small_dataset())
    return path


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x is y or (x.dtype == y.dtype and np.array_equal(x, y))


def forge(path, change_header=lambda header: None, payload=None):
    """Write a file whose digest is right, but not what it says."""
    line, rest = path.read_bytes().split(b"\n", 1)
    header = json.loads(line)
    change_header(header)
    header["sha256"] = _NO_DIGEST
    content = json.dumps(header).encode() + b"\n"
    content += rest if payload is None else payload
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content.replace(_NO_DIGEST.encode(), digest.encode(), 1))
    return path


def test_names_of_a_models_arrays():
    arrays = named_arrays(*small_net())
    assert list(arrays) == [
        "conv.weight",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "linear.weight",
        "linear.bias",
    ]


def test_with_arrays_inverts_named_arrays():
    model, state = small_net(0)
    other = small_net(1)
    assert_same(with_arrays(*other, named_arrays(model, state)), (model, state))


@pytest.mark.parametrize("arch", ["vgg11", "resnet8", "wrn10-1"])
def test_every_array_of_an_architecture_has_its_own_name(arch):
    model, state = eqx.filter_eval_shape(models.create, arch, 10, key=jax.random.key(0))
    leaves = [x for x in jax.tree.leaves((model, state)) if hasattr(x, "shape")]
    assert len(named_arrays(model, state)) == len(leaves)


def test_round_trip_of_every_leaf(tmp_path):
    path = save(tmp_path / "last.eqx")
    loaded, header = runs.load_checkpoint(path, start(1))
    assert_same(loaded, busy())
    assert header["classes"] == list(small_dataset().classes)
    assert header["config"] == CONFIG.to_dict()
    assert header["data"]["sha256"] == small_dataset().fingerprint


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "bool", "uint8", "int32"])
def test_round_trip_of_a_dtype(tmp_path, dtype):
    arrays = {"a": jnp.arange(6).reshape(2, 3).astype(dtype), "b": jnp.ones((), dtype)}
    write_checkpoint(tmp_path / "x.eqx", arrays, {})
    with open_checkpoint(tmp_path / "x.eqx") as file:
        assert_same(file.read(arrays), arrays)


def test_a_flag_of_inference_mode_is_not_saved(tmp_path):
    train_state = busy()
    frozen = eqx.tree_at(
        lambda s: s.model, train_state, eqx.nn.inference_mode(train_state.model)
    )
    path = save(tmp_path / "last.eqx", frozen)
    loaded, _ = runs.load_checkpoint(path, start())
    assert not loaded.model.norm.inference
    assert_same(loaded, train_state)


def test_a_model_of_a_known_architecture_is_made_from_the_file(tmp_path):
    config = TrainConfig(arch="resnet8", width=0.25)
    model, state = models.create("resnet8", 4, width=0.25, key=jax.random.key(7))
    train_state = initialise(model, state, config, 5000)
    for name, write in (("last", runs.save_checkpoint), ("model", runs.save_model)):
        write(tmp_path / f"{name}.eqx", train_state, config, small_dataset())
        loaded = runs.load_model(tmp_path / f"{name}.eqx")
        assert_same((loaded.model, loaded.state), (model, state))
        assert loaded.config == config
        assert loaded.classes == small_dataset().classes
    assert_same(runs.load_model(tmp_path).model, model)
    assert_same(runs.load_model(storage.Run(tmp_path)).model, model)


def test_the_same_numbers_are_the_same_bytes(tmp_path):
    one, two = save(tmp_path / "one.eqx"), save(tmp_path / "two.eqx")
    assert one.read_bytes() == two.read_bytes()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = save(tmp_path / "last.eqx")
    wrong_shape = (
        r"model.linear.weight is float32\[4, 6\] there, but float32\[7, 6\] in"
    )
    with pytest.raises(CheckpointError, match=wrong_shape):
        runs.load_checkpoint(path, start(classes=7))
    batch_norm = eqx.nn.make_with_state(models.BatchNorm)(3)
    lacking = r"it lacks model.weight, in the model float32\[3\]"
    with pytest.raises(CheckpointError, match=lacking):
        runs.load_checkpoint(path, initialise(*batch_norm, CONFIG, 64))


def test_another_precision_names_the_variable(tmp_path):
    single, double = save(tmp_path / "single.eqx"), tmp_path / "double.eqx"
    with jax.enable_x64(True):
        runs.save_checkpoint(double, start(), CONFIG, small_dataset())
        line = f"{single} was written with JAX_ENABLE_X64 off, and here it is on: unset"
        for load in (runs.load_checkpoint, load_small_model):
            with pytest.raises(CheckpointError, match=re.escape(line)):
                load(single, start())
    line = f"{double} was written with JAX_ENABLE_X64 on, and here it is off: set JAX_"
    for load in (runs.load_checkpoint, load_small_model):
        with pytest.raises(CheckpointError, match=re.escape(line)):
            load(double, start())


def load_small_model(path, train_state):
    return runs.load_model(path, (train_state.model, train_state.state))


@pytest.mark.parametrize("error", [RuntimeError("no\ndriver"), AssertionError()])
def test_no_file_is_blamed_for_a_missing_platform(tmp_path, monkeypatch, error):
    path, like = save(tmp_path / "x.eqx"), start()

    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(UsageError, match="JAX_PLATFORMS is 'cpu', which JAX cannot"):
        load_small_model(path, like)


def test_extra_and_reordered_arrays_are_refused(tmp_path):
    arrays = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    write_checkpoint(tmp_path / "x.eqx", arrays, {})
    with open_checkpoint(tmp_path / "x.eqx") as file:
        with pytest.raises(
            CheckpointError, match=r"has b, float32\[3\]; the model has"
        ):
            file.read({"a": jnp.zeros(2)})
        with pytest.raises(CheckpointError, match="in another order"):
            file.read({"b": jnp.zeros(3), "a": jnp.zeros(2)})


def test_another_version_is_refused(tmp_path):
    path = forge(save(tmp_path / "x.eqx"), lambda header: header.update(version=99))
    with pytest.raises(CheckpointError, match="version 99.* reads .*, version 1"):
        runs.load_checkpoint(path, start())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "none.eqx"))):
        runs.load_model(tmp_path / "none.eqx")


def damaged(content: bytes, count: int):
    rng = np.random.default_rng(0)
    for i in range(count):
        bytes_ = bytearray(content)
        where = int(rng.integers(len(content)))
        if i % 3 == 0:
            del bytes_[where:]
        elif i % 3 == 1:
            bytes_[where] ^= 1 << int(rng.integers(8))
        else:
            end = min(where + 64, len(content))
            bytes_[where:end] = bytes(end - where)
        if bytes_ != content:
            yield bytes(bytes_)


def test_no_damage_is_accepted_and_all_is_reported_as_such(tmp_path):
    path = save(tmp_path / "last.eqx")
    like, tried = start(), 0
    for content in damaged(path.read_bytes(), 300):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            runs.load_checkpoint(path, like)
        tried += 1
    assert tried > 290


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("pickle-was-run"),))


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("form", ["pickle", "npy", "npz"])
def test_nothing_is_unpickled(tmp_path, monkeypatch, form, whole):
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps(Payload())
    if form == "npy":
        evil = npy(np.array([Payload()], dtype=object))
    elif form == "npz":
        file = io.BytesIO()
        np.savez(file, evil=np.array([Payload()], dtype=object))
        evil = file.getvalue()
    path = save(tmp_path / "last.eqx")
    if whole:
        path.write_bytes(evil)
    else:
        forge(path, payload=evil)
    with pytest.raises(CheckpointError):
        runs.load_checkpoint(path, start())
    assert not Path("pickle-was-run").exists()


def test_forged_files_are_typed_errors(tmp_path):
    good = save(tmp_path / "good.eqx").read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "bad.eqx"
    payload = good.split(b"\n", 1)[1]
    for _ in range(60):
        changed = bytearray(payload)
        # Where the NumPy headers are, which say how much to read.
        changed[int(rng.integers(128))] = int(rng.integers(256))
        path.write_bytes(good)
        forge(path, payload=bytes(changed))
        with contextlib.suppress(CheckpointError):
            runs.load_checkpoint(path, start())
    path.write_bytes(good)
    forge(path, payload=payload + b"more")
    with pytest.raises(CheckpointError, match="more than its table"):
        runs.load_checkpoint(path, start())
    for leaves in ("nonsense", [["a"]], [[1, 2, 3]], None):
        path.write_bytes(good)
        forge(path, lambda header, leaves=leaves: header.update(leaves=leaves))
        with pytest.raises(CheckpointError):
            runs.load_checkpoint(path, start())
    deep = b'{"sha256": "' + b"0" * 64 + b'", "a": ' + b"[" * 100_000 + b"\n"
    path.write_bytes(deep)
    with pytest.raises(CheckpointError):
        runs.load_checkpoint(path, start())


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = save(tmp_path / "last.eqx")
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=f"{re.escape(str(path))}: No space left"):
        save(path, start())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.eqx"]


def test_memory_of_writing_and_reading(tmp_path):
    arrays = {str(i): np.zeros(2**20, np.float32) for i in range(16)}
    size = 16 * 4 * 2**20
    like = {
        name: jax.ShapeDtypeStruct(x.shape, jnp.float32) for name, x in arrays.items()
    }
    tracemalloc.start()
    try:
        write_checkpoint(
            tmp_path / "x.eqx", {k: jnp.asarray(v) for k, v in arrays.items()}, {}
        )
        writing = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        with open_checkpoint(tmp_path / "x.eqx") as file:
            file.read(like)
        reading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert writing < size
    assert reading < 2 * size


def test_a_random_key_in_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="a is a random key"):
        write_checkpoint(tmp_path / "x.eqx", {"a": jax.random.key(0)}, {})


def test_nothing_in_the_package_can_run_code_from_a_file():
    forbidden = re.compile(r"\bpickle\b|allow_pickle\s*=\s*True|\beval\(|\bexec\(")
    sources = list(SOURCE.rglob("*.py"))
    assert len(sources) > 20
    found = [path for path in sources if forbidden.search(path.read_text())]
    assert not found
