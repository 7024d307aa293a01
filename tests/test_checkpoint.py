import io
import json
import os
import pickle
import re
import resource
import tracemalloc
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from eqcifar import models, runs, storage
from eqcifar.errors import RunError, UsageError
from eqcifar.runs import CheckpointError, named_arrays, replace_arrays
from eqcifar.runs._array_file import _digest, read_arrays, write_arrays
from eqcifar.training import TrainConfig, initialise

from .cli_tools import run_cli
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
        if eqx.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x is y or (x.dtype == y.dtype and np.array_equal(x, y))


def forge(path, change_header=lambda header: None, change_tensors=lambda x: None):
    """Write a file whose digest is right, but not what it says."""
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["eqcifar"])
    del header["sha256"]
    change_header(header)
    change_tensors(tensors)
    metadata = json.dumps({"sha256": _digest(header, tensors), **header})
    safetensors.numpy.save_file(tensors, path, {"eqcifar": metadata})
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


def test_replace_arrays_inverts_named_arrays():
    model, state = small_net(0)
    other = small_net(1)
    assert_same(replace_arrays(*other, named_arrays(model, state)), (model, state))


@pytest.mark.parametrize("arch", ["vgg11", "resnet8", "wrn10-1"])
def test_every_array_of_an_architecture_has_its_own_name(arch):
    model, state = eqx.filter_eval_shape(models.create, arch, 10, key=jax.random.key(0))
    leaves = [x for x in jax.tree.leaves((model, state)) if hasattr(x, "shape")]
    assert len(named_arrays(model, state)) == len(leaves)


def test_round_trip_of_every_leaf(tmp_path):
    path = save(tmp_path / "last.safetensors")
    loaded, header = runs.load_checkpoint(path, start(1))
    assert_same(loaded, busy())
    assert header["classes"] == list(small_dataset().classes)
    assert header["config"] == CONFIG.to_dict()
    assert header["data"]["sha256"] == small_dataset().fingerprint


DTYPES = "bfloat16", "float16", "bool", "uint8", "int32", "complex64", "float8_e4m3fn"


@pytest.mark.parametrize("dtype", [*DTYPES, "int4"])
def test_round_trip_of_a_dtype(tmp_path, dtype):
    arrays = {"b": jnp.ones((), dtype), "a": jnp.arange(6).reshape(2, 3).astype(dtype)}
    # Stored by columns, of which only the first address is passed on.
    arrays["c"] = jnp.asarray(np.asarray(arrays["a"]).T)
    arrays["none"] = jnp.zeros((0, 3), dtype)
    write_arrays(tmp_path / "x.safetensors", arrays, {"é": [1.5, None]})
    file = read_arrays(tmp_path / "x.safetensors")
    found = file.read(arrays)
    assert_same(found, arrays)
    assert list(found) == list(arrays)
    assert file.header["é"] == [1.5, None]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_round_trip_of_random_keys(tmp_path, impl):
    keys = jax.random.split(jax.random.key(7, impl=impl), 3)
    write_arrays(tmp_path / "x.safetensors", {"a": keys, "b": keys[0]}, {})
    like = {"a": jax.eval_shape(lambda: keys), "b": jax.eval_shape(lambda: keys[0])}
    found = read_arrays(tmp_path / "x.safetensors").read(like)
    assert found["a"].dtype == keys.dtype
    for mine, other in zip(found["a"], keys, strict=True):
        assert jax.random.bits(mine) == jax.random.bits(other)
    assert jax.random.bits(found["b"]) == jax.random.bits(keys[0])


def test_a_tree_with_bfloat16_and_a_key_goes_on_from_a_file(tmp_path):
    def own(seed):
        net = start(seed)
        weight = net.model.linear.weight.astype(jnp.bfloat16)
        net = eqx.tree_at(lambda s: s.model.linear.weight, net, weight)
        return eqx.tree_at(lambda s: s.opt_state, net, {"key": jax.random.key(seed)})

    path = save(tmp_path / "last.safetensors", own(3))
    loaded, _ = runs.load_checkpoint(path, own(4))
    assert_same(loaded, own(3))


def test_other_programs_read_a_checkpoint(tmp_path):
    found = safetensors.numpy.load_file(save(tmp_path / "last.safetensors"))
    trained = busy()
    assert np.array_equal(found["model.conv.weight"], trained.model.conv.weight)
    assert found["step"] == trained.step
    running_mean = named_arrays(trained.model, trained.state)["norm.running_mean"]
    assert np.array_equal(found["model.norm.running_mean"], running_mean)


def test_a_flag_of_inference_mode_is_not_saved(tmp_path):
    train_state = busy()
    frozen = eqx.tree_at(
        lambda s: s.model, train_state, eqx.nn.inference_mode(train_state.model)
    )
    path = save(tmp_path / "last.safetensors", frozen)
    loaded, _ = runs.load_checkpoint(path, start())
    assert not loaded.model.norm.inference
    assert_same(loaded, train_state)


def test_a_model_of_a_known_architecture_is_made_from_the_file(tmp_path):
    config = TrainConfig(arch="resnet8", width=0.25)
    model, state = models.create("resnet8", 4, width=0.25, key=jax.random.key(7))
    train_state = initialise(model, state, config, 5000)
    for name, write in (("last", runs.save_checkpoint), ("model", runs.save_model)):
        write(tmp_path / f"{name}.safetensors", train_state, config, small_dataset())
        loaded = runs.load_model(tmp_path / f"{name}.safetensors")
        assert_same((loaded.model, loaded.state), (model, state))
        assert loaded.config == config
        assert loaded.classes == small_dataset().classes
    assert_same(runs.load_model(tmp_path).model, model)
    assert_same(runs.load_model(storage.Run(tmp_path)).model, model)


def test_the_same_numbers_are_the_same_bytes(tmp_path):
    one, two = save(tmp_path / "one.safetensors"), save(tmp_path / "two.safetensors")
    assert one.read_bytes() == two.read_bytes()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = save(tmp_path / "last.safetensors")
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
    single, double = (
        save(tmp_path / "single.safetensors"),
        tmp_path / "double.safetensors",
    )
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
    path, like = save(tmp_path / "x.safetensors"), start()

    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(UsageError, match="JAX_PLATFORMS is 'cpu', which JAX cannot"):
        load_small_model(path, like)


def test_extra_and_reordered_arrays_are_refused(tmp_path):
    arrays = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    write_arrays(tmp_path / "x.safetensors", arrays, {})
    file = read_arrays(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"has b, float32\[3\]; the model has"):
        file.read({"a": jnp.zeros(2)})
    with pytest.raises(CheckpointError, match="in another order"):
        file.read({"b": jnp.zeros(3), "a": jnp.zeros(2)})


def test_another_version_is_refused(tmp_path):
    path = forge(
        save(tmp_path / "x.safetensors"), lambda header: header.update(format=99)
    )
    with pytest.raises(CheckpointError, match="format 99; .* reads format 1"):
        runs.load_checkpoint(path, start())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "none.safetensors"))):
        runs.load_model(tmp_path / "none.safetensors")


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
    path = save(tmp_path / "last.safetensors")
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


@pytest.mark.parametrize("form", ["pickle", "npy", "npz"])
def test_nothing_is_unpickled(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps(Payload())
    if form == "npy":
        evil = npy(np.array([Payload()], dtype=object))
    elif form == "npz":
        file = io.BytesIO()
        np.savez(file, evil=np.array([Payload()], dtype=object))
        evil = file.getvalue()
    path = tmp_path / "last.safetensors"
    path.write_bytes(evil)
    with pytest.raises(CheckpointError):
        runs.load_checkpoint(path, start())
    assert not Path("pickle-was-run").exists()


LEAVES = "nonsense", [["a"]], [[1, 2, 3]], None, [["model.conv.weight", "f4", [1]]]


@pytest.mark.parametrize("leaves", LEAVES)
def test_a_forged_table_is_refused(tmp_path, leaves):
    path = save(tmp_path / "x.safetensors")
    forge(path, lambda header: header.update(leaves=leaves))
    with pytest.raises(CheckpointError, match="other arrays than its table says"):
        runs.load_checkpoint(path, start())


def test_forged_tensors_are_refused(tmp_path):
    def narrower(tensors):
        tensors["model.conv.weight"] = tensors["model.conv.weight"].astype(np.float16)

    def shorter(tensors):
        tensors["model.linear.bias"] = tensors["model.linear.bias"][:1]

    for change in (narrower, shorter):
        path = forge(save(tmp_path / "x.safetensors"), change_tensors=change)
        with pytest.raises(CheckpointError, match="other arrays than its table says"):
            runs.load_checkpoint(path, start())


@pytest.mark.parametrize(
    "metadata", ["", "3", "[]", "{}", '{"sha256": "0"}', "[" * 100_000]
)
def test_metadata_that_is_none_of_ours_is_refused(tmp_path, metadata):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(2)}, path, {"eqcifar": metadata})
    with pytest.raises(CheckpointError, match=r"damaged|has format None"):
        runs.load_checkpoint(path, start())


HEADERS = [
    ({"classes": 3}, "classes = 3 is no list"),
    ({"classes": []}, "classes must be texts"),
    ({"classes": [1, 2]}, "classes must be texts"),
    ({"data": []}, r"data = \[\] is no dict"),
    ({"data": {"name": 3}}, "name = 3 is no str"),
    ({"step": "4"}, "step = '4' is no int"),
    ({"step": True}, "step = True is no int"),
    ({"step": -1}, "step = -1: must be"),
    ({"about": {"a": []}}, "about must be numbers and texts"),
    ({"environment": None}, "environment = None is no dict"),
    ({"environment": {"versions": 3}}, "environment: versions = 3 is no dict"),
    ({"holds": "all"}, "holds = 'all' is neither"),
    ({"config": {"lr": "x"}}, "lr = 'x': must be a number"),
    ({"config": {"arch": "wrn40000-1"}}, "wrn40000-1"),
    ({"config": {"arch": "nonsense"}}, "unknown architecture 'nonsense'"),
    ({"config": {"width": 1e300}}, "lacks model.stem.weight, in the model float32"),
]


@pytest.mark.parametrize(("change", "line"), HEADERS)
def test_a_header_of_wrong_values_is_one_line(tmp_path, change, line):
    path = save(tmp_path / "x.safetensors")
    if "config" in change:
        change = {"config": {**CONFIG.to_dict(), **change["config"]}}
    forge(path, lambda header: header.update(change))
    result = run_cli("eval", path)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert str(path) in result.stderr
    assert re.search(line, result.stderr)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_one_line(tmp_path, value):
    path = tmp_path / "model.safetensors"
    config = TrainConfig(arch="resnet8", width=0.25)
    network = models.create("resnet8", 4, width=0.25, key=jax.random.key(7))
    train_state = initialise(*network, config, 5000)
    bias = train_state.model.classifier.bias.at[1].set(value)
    train_state = eqx.tree_at(lambda s: s.model.classifier.bias, train_state, bias)
    runs.save_model(path, train_state, config, small_dataset())
    with pytest.raises(CheckpointError, match=r"diverged: classifier\.bias is not fin"):
        runs.load_model(path)
    runs.save_checkpoint(path, train_state, config, small_dataset())
    for load in (runs.load_model, lambda path: runs.load_checkpoint(path, train_state)):
        with pytest.raises(CheckpointError, match="diverged"):
            load(path)


def test_a_network_alone_is_not_gone_on_from(tmp_path):
    runs.save_model(tmp_path / "x.safetensors", start(), CONFIG, small_dataset())
    with pytest.raises(CheckpointError, match="holds a network alone"):
        runs.load_checkpoint(tmp_path / "x.safetensors", start())


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="no file"):
        load_small_model(tmp_path / "x.safetensors", start())


def test_a_folder_that_is_gone_is_not_called_intact(tmp_path):
    with pytest.raises(RunError, match=r"x.safetensors: there is no folder .*gone$"):
        save(tmp_path / "gone" / "x.safetensors", start())


@pytest.mark.parametrize("limit", [0, 1, 2000])
def test_a_file_that_may_not_grow_is_one_line(tmp_path, limit):
    path = save(tmp_path / "last.safetensors")
    before = path.read_bytes()
    other = start()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # As on a full disk, the write itself fails, at its first byte or within.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(RunError) as error:
            save(path, other)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(error.value).startswith(f"cannot write {path}: File too large; make")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = save(tmp_path / "last.safetensors")
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=f"{re.escape(str(path))}: No space left"):
        save(path, start())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_memory_of_writing_and_reading(tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = {str(i): np.zeros(2**20, np.float32) for i in range(16)}
    size = 16 * 4 * 2**20
    like = {
        name: jax.ShapeDtypeStruct(x.shape, jnp.float32) for name, x in arrays.items()
    }
    tracemalloc.start()
    try:
        write_arrays(
            tmp_path / "x.safetensors",
            {k: jnp.asarray(v) for k, v in arrays.items()},
            {},
        )
        writing = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        read_arrays(path).read(like)
        reading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert writing < 1.1 * size
    assert reading < 1.1 * size


def test_nothing_in_the_package_can_run_code_from_a_file():
    forbidden = re.compile(r"\bpickle\b|allow_pickle\s*=\s*True|\beval\(|\bexec\(")
    sources = list(SOURCE.rglob("*.py"))
    assert len(sources) > 20
    found = [path for path in sources if forbidden.search(path.read_text())]
    assert not found
