"""Networks of PyTorch become runs, and runs become state dicts again."""

import json
import pickle
import zipfile
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from eqcifar import data, exchange, measurements, models, results, runs, storage
from eqcifar.config import ImportOptions
from eqcifar.errors import UsageError
from eqcifar.exchange._pytorch_names import names_in
from eqcifar.sharpness import Estimate, Measured

from .cli_tools import run_cli
from .helpers import random_network

SMALL = {"dataset": "synthetic", "width": 0.25}
# Of kuangliu's ResNet-18.
RESNET = ImportOptions(arch="resnet18", **{**SMALL, "width": 1 / 16})


def tensors_of(naming, arch, seed=0, **variant) -> dict[str, Any]:
    """Random arrays of a network under other names, by the names there."""
    key = jax.random.key(seed)
    model, state = eqx.filter_eval_shape(models.create, arch, 10, **variant, key=key)
    names = names_in(exchange.NAMINGS[naming], model, state)
    rng = np.random.default_rng(seed)
    return {
        # By fan-in, so that outputs are of the size of the input.
        names[name]: (
            rng.uniform(0.1, 1, array.shape) / np.prod(array.shape[1:])
        ).astype(np.float32)
        for name, array in runs.named_arrays(model, state).items()
    }


@pytest.fixture(scope="module")
def tensors():
    return tensors_of("kuangliu", "resnet18", width=1 / 16)


@pytest.fixture
def file(tensors, tmp_path):
    path = tmp_path / "ckpt.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path


def write(path, tensors):
    safetensors.numpy.save_file(tensors, path)
    return path


def test_published_names(tensors):
    assert {
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.conv1.weight",
        "layer4.1.bn2.bias",
        "layer2.0.shortcut.0.weight",
        "layer4.0.shortcut.1.running_mean",
        "linear.bias",
    } <= set(tensors)
    assert {
        "layer3.5.conv3.weight",
        "layer1.0.downsample.0.weight",
        "fc.weight",
    } <= set(tensors_of("torchvision", "resnet50", width=1 / 16))
    assert {
        "conv1.weight",
        "block1.layer.0.convShortcut.weight",
        "block3.layer.3.bn2.running_mean",
        "bn1.weight",
        "fc.bias",
    } <= set(tensors_of("xternalz", "wrn28-2", width=1 / 16))
    assert {"features.0.bias", "features.41.running_var", "classifier.weight"} <= set(
        tensors_of("vgg", "vgg16", width=1 / 16)
    )
    assert {"classifier.0.weight", "classifier.6.bias"} <= set(
        tensors_of("vgg-fc", "vgg16-fc3", width=1 / 16)
    )
    assert {
        "conv1.0.weight",
        "conv5_x.1.residual_function.4.bias",
        "conv3_x.0.shortcut.1.weight",
    } <= set(tensors_of("weiaicunzai", "resnet18", width=1 / 16))


def test_import_makes_a_run_that_commands_take(file, tensors, tmp_path):
    out = tmp_path / "results"
    words = "--arch", "resnet18", "--width", 1 / 16, "--dataset", "synthetic"
    words += "--origin", "kuangliu/pytorch-cifar", "--out", out
    result = run_cli("import", file, *words)
    assert (result.exit_code, result.stderr) == (0, ""), repr(result.exception)
    (run,) = storage.find_runs(out)
    assert str(run.path) in result.stdout
    loaded = runs.load_model(run)
    arrays = runs.named_arrays(loaded.model, loaded.state)
    for ours, theirs in {
        "stem.weight": "conv1.weight",
        "blocks.2.shortcut.norm.running_var": "layer2.0.shortcut.1.running_var",
        "blocks.7.norm2.bias": "layer4.1.bn2.bias",
        "classifier.weight": "linear.weight",
    }.items():
        assert np.array_equal(np.asarray(arrays[ours]), tensors[theirs])
    assert (loaded.config.loss, loaded.header["step"]) == ("ce", 0)
    (row,) = run.log()
    evaluated = json.loads(run_cli("eval", run.path, "--json").stdout)
    assert evaluated["accuracy"]["value"] == row["acc_te"]
    assert evaluated["same_data"]
    (record,) = results.read_records(out)
    assert record.state == "done"
    assert record.values["acc_te"] == row["acc_te"]
    assert record.about == {"origin": "kuangliu/pytorch-cifar"}
    measured = run_cli("sharpness", run.path, "--samples", 4, "--measures", "trace")
    assert measured.exit_code == 0, measured.stderr
    page = tmp_path / "page.html"
    assert run_cli("report", out, "--out", page).exit_code == 0
    assert "Imported from kuangliu/pytorch-cifar" in page.read_text()
    assert run_cli("export", run.path).exit_code == 0
    card = (run.path / "export" / "README.md").read_text()
    assert "kuangliu/pytorch-cifar" in card
    assert loaded.header["imported"]["sha256"] in card
    again = run_cli("import", file, "--arch", "resnet18", *words_of(out))
    assert again.exit_code == 2
    assert "is there already: remove it" in again.stderr


def test_the_weight_decay_of_others_is_not_known(file, tmp_path):
    run = exchange.import_model(file, RESNET, tmp_path, measure=False)
    network = measurements.open_network(run.path)
    options = measurements.SharpnessOptions()
    assert np.isnan(network.penalty(options))
    found = {"test": {"any": Measured({"any": Estimate(1.0, examples=2)})}}
    text = str(measurements.measures_table(network, options, found))
    assert text.endswith("dropout. Weight decay is left out.")


def words_of(out):
    words = "--width", 1 / 16, "--dataset", "synthetic"
    return *words, "--origin", "kuangliu/pytorch-cifar", "--out", out


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.", "model.module."])
def test_prefixes_are_found(prefix, tensors, tmp_path):
    path = write(
        tmp_path / "x.safetensors", {prefix + k: x for k, x in tensors.items()}
    )
    found = exchange.open_foreign(path, RESNET, 10)
    assert found.match.names["stem.weight"] == f"{prefix}conv1.weight"
    assert found.match.source == "kuangliu/pytorch-cifar"


def test_what_is_beside_the_network_is_named(tensors, tmp_path):
    beside = {"loss.weight": np.ones(10, np.float32)}
    inside = {f"net.{name}": x for name, x in tensors.items()}
    path = write(tmp_path / "x.safetensors", {**inside, **beside})
    assert exchange.open_foreign(path, RESNET, 10).match.left_out == ["loss.weight"]


def test_what_does_not_match_is_named(tensors, tmp_path):
    def refusal(changed, classes=10, options=RESNET):
        path = write(tmp_path / "x.safetensors", changed)
        with pytest.raises(UsageError) as caught:
            exchange.open_foreign(path, options, classes)
        return str(caught.value)

    lacking = {k: x for k, x in tensors.items() if k != "layer3.1.bn2.bias"}
    assert "it lacks layer3.1.bn2.bias [16]" in refusal(lacking)
    more = {**tensors, "layer5.weight": np.ones((3, 2), np.float32)}
    assert "nothing here takes layer5.weight [3, 2]" in refusal(more)
    line = refusal(tensors, 100)
    assert "linear.weight is [10, 32] there, and [100, 32] here" in line
    assert "under the names of kuangliu/pytorch-cifar" in line
    seven = {**tensors, "conv1.weight": np.ones((4, 3, 7, 7), np.float32)}
    assert "conv1.weight is [4, 3, 7, 7] there, and [4, 3, 3, 3]" in refusal(seven)
    integers = {**tensors, "linear.bias": np.ones(10, np.int32)}
    path = write(tmp_path / "y.safetensors", integers)
    with pytest.raises(UsageError, match="linear.bias in .* is int32: no weights"):
        exchange.import_model(path, RESNET, tmp_path / "results")
    nan = {**tensors, "linear.bias": np.full(10, np.nan, np.float32)}
    path = write(tmp_path / "z.safetensors", nan)
    with pytest.raises(UsageError, match="linear.bias in .* is not finite"):
        exchange.import_model(path, RESNET, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_shortcut_that_fits_is_told(tmp_path):
    tensors = tensors_of("torchvision", "resnet20", width=0.25, shortcut="projection")
    path = write(tmp_path / "x.safetensors", tensors)
    options = ImportOptions(arch="resnet20", **SMALL)
    with pytest.raises(UsageError, match="it fits with --shortcut projection"):
        exchange.open_foreign(path, options, 10)
    # The zeros of padding shortcuts have no names, so nothing is taken for granted.
    tensors = tensors_of("kuangliu", "resnet20", width=0.25, shortcut="centred")
    write(path, tensors)
    with pytest.raises(UsageError, match="it fits with --shortcut centred"):
        exchange.open_foreign(path, options, 10)


def test_a_map_of_ones_own(tensors, tmp_path):
    shown = run_cli(
        "import", write(tmp_path / "x.safetensors", tensors), "--show-map",
        "--width", 1 / 16, "--dataset", "synthetic",
    )  # fmt: skip
    names = json.loads(shown.stdout)
    assert names["classifier.bias"] == "linear.bias"
    path = write(tmp_path / "y.safetensors", {f"a/{k}": x for k, x in tensors.items()})
    with pytest.raises(UsageError, match="it lacks"):
        exchange.open_foreign(path, RESNET, 10)
    own = tmp_path / "map.json"
    own.write_text(json.dumps({ours: f"a/{name}" for ours, name in names.items()}))
    found = exchange.open_foreign(path, RESNET, 10, own)
    assert found.match.names["classifier.bias"] == "a/linear.bias"
    wrong = {"stem.weight": "a/linear.bias", "no.such": "a/conv1.weight"}
    own.write_text(json.dumps(wrong))
    with pytest.raises(UsageError) as caught:
        exchange.open_foreign(path, RESNET, 10, own)
    assert "a/linear.bias is [10] there, and [4, 3, 3, 3] here" in str(caught.value)
    assert "under the names of the map" in str(caught.value)
    own.write_text(json.dumps({"stem.weight": 3}))
    with pytest.raises(UsageError, match="must be a text"):
        exchange.open_foreign(path, RESNET, 10, own)


def test_other_files_are_one_line(tensors, tmp_path):
    for name, content in {"a.safetensors": b"no", "empty.safetensors": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="is no file of safetensors"):
            exchange.open_foreign(tmp_path / name, RESNET, 10)
    with pytest.raises(UsageError, match="no file"):
        exchange.open_foreign(tmp_path / "none.pt", RESNET, 10)
    options = ImportOptions(arch="airbench94", dataset="synthetic")
    path = write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(UsageError, match="no PyTorch names are known"):
        exchange.open_foreign(path, options, 10)
    classes = ["b", "a", "c", "d", "e", "f", "g", "h", "i"]
    with pytest.raises(UsageError, match="the classes of .* in this order"):
        exchange.import_model(path, RESNET, tmp_path, classes=classes)


def test_commands_that_take_runs_name_import(tensors, tmp_path):
    weights = tmp_path / "net.safetensors"
    safetensors.numpy.save_file(tensors, weights)
    archive, pickled = tmp_path / "net.pt", tmp_path / "net.pth"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", b"")
    pickled.write_bytes(pickle.dumps({"fc.weight": 1}, protocol=2))
    for file in (weights, archive, pickled):
        for command in ("eval", "sharpness", "export", "compare"):
            result = run_cli(command, file)
            assert result.exit_code == 1
            assert f"`eqcifar import {file} --arch NAME`" in " ".join(
                result.stderr.split()
            )
            assert "Traceback" not in result.stderr


def test_wider_numbers_are_not_rounded(tensors, tmp_path):
    wide = {name: x.astype(np.float64) for name, x in tensors.items()}
    path = write(tmp_path / "x.safetensors", wide)
    with pytest.raises(UsageError, match="float64, which float32 would round"):
        exchange.import_model(path, RESNET, tmp_path / "results")


@pytest.mark.parametrize(
    ("naming", "arch", "variant"),
    [
        ("kuangliu", "resnet18", {"width": 1 / 16}),
        ("vgg-fc", "vgg11-fc3", {"width": 1 / 16}),
    ],
)
def test_there_and_back_is_the_same_to_the_bit(naming, arch, variant, tmp_path):
    tensors = tensors_of(naming, arch, **variant)
    tensors = {f"module.{name}": array for name, array in tensors.items()}
    norms = [k.rpartition(".")[0] for k in tensors if k.endswith("running_mean")]
    for i, norm in enumerate(norms):
        tensors[f"{norm}.num_batches_tracked"] = np.array(7 + i, np.int64)
    half = f"module.{'linear' if naming == 'kuangliu' else 'classifier.6'}.bias"
    tensors[half] = tensors[half].astype(np.float16)
    path = write(tmp_path / "x.safetensors", tensors)
    options = ImportOptions(arch=arch, dataset="synthetic", **variant)
    run = exchange.import_model(path, options, tmp_path / "results", measure=False)
    result = run_cli("export", run.path, "--to", "pytorch")
    assert (result.exit_code, result.stderr) == (0, "")
    back = run.path / "pytorch" / "model.safetensors"
    found = safetensors.numpy.load_file(back)
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    with safetensors.safe_open(back, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    card = (back.parent / "README.md").read_text()
    assert "net.load_state_dict" in card
    again = exchange.open_foreign(back, options, 10)
    assert not again.match.problems


def test_what_has_no_names_in_pytorch_is_refused(tmp_path):
    model, state = models.create("airbench93", 10, width=0.1, key=jax.random.key(0))
    config = ImportOptions(arch="airbench93", width=0.1, dataset="synthetic").config()
    header = runs.network_header(config, data.synthetic(10, train=10, test=10), 0)
    runs.write_network(tmp_path / "model.safetensors", model, state, header)
    with pytest.raises(UsageError, match="no PyTorch names are known of a airbench93"):
        exchange.export_model(tmp_path, tmp_path / "new", to="pytorch")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arch", "shortcut"),
    [
        ("resnet8", "padding"),
        ("resnet8", "centred"),
        ("resnet8", "projection"),
        ("resnet50", "own"),
        ("wrn16-4", "own"),
        ("preact18", "own"),
        ("vgg11", "own"),
        ("vgg11-fc3", "own"),
    ],
)
def test_the_program_on_the_card_is_the_network(arch, shortcut, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    options = ImportOptions(
        arch=arch, width=1 / 16, shortcut=shortcut, dataset="synthetic"
    )
    config, small = options.config(), data.synthetic(10, train=10, test=10)
    start = random_network(models.create, arch, 10, **config.variant)
    header = runs.network_header(config, small, 0)
    runs.write_network(tmp_path / "model.safetensors", start.model, start.state, header)
    exchange.export_model(tmp_path, tmp_path / "new", to="pytorch")
    card = (tmp_path / "new" / "README.md").read_text()
    program = card.rpartition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path / "new")
    names = {}
    exec(program, names)
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    theirs = names["network"](torch.from_numpy(images)).numpy()
    model = eqx.nn.inference_mode(start.model)
    ours, _ = jax.vmap(model, in_axes=(0, None), out_axes=(0, None))(
        images, start.state
    )
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4 * np.ptp(ours))
    assert np.ptp(ours) > 0


# PyTorch's own numbers.


def outputs(model, state, images, labels, *, training):
    """Logits, and the gradient of the mean cross-entropy by the names here."""
    model = model if training else eqx.nn.inference_mode(model)
    axes = {"axis_name": "batch", "in_axes": (0, None), "out_axes": (0, None)}

    def loss(model):
        logits, _ = jax.vmap(model, **axes)(images, state)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -picked.mean(), logits

    (_, logits), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model)
    names = runs.named_arrays(gradient, state)
    return logits, {k: x for k, x in names.items() if "running" not in k}


def torch_outputs(net, images, labels, *, training):
    import torch
    import torch.nn.functional as F

    net.train(training)
    net.zero_grad()
    logits = net(torch.from_numpy(images))
    F.cross_entropy(logits, torch.from_numpy(labels)).backward()
    return logits.detach().numpy(), {k: p.grad for k, p in net.named_parameters()}


def sources():
    pytest.importorskip("torch", reason="pip install 'eqcifar[torch]' to compare")
    from . import foreign_networks

    return foreign_networks


def difference(ours, theirs):
    """The largest difference, as a part of the largest value."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(ours, theirs, strict=True)]
    return max(np.abs(a - b).max() for a, b in pairs) / max(
        np.abs(b).max() for _, b in pairs
    )


def parity(source, path, dtype):
    """The largest differences of logits and gradients in both modes."""
    import copy

    import torch
    from safetensors.torch import save_file

    foreign = sources()
    given, make = foreign.NETWORKS[source]
    options = ImportOptions(dataset="synthetic", **given)
    net = foreign.trained(make, dtype=getattr(torch, dtype))
    save_file(net.state_dict(), path)
    found = exchange.open_foreign(path, options, 10)
    model, state = exchange.fill(found)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 3, 32, 32)).astype(dtype)
    labels = rng.integers(10, size=8)
    numbers = []
    for training in (False, True):
        args = images, labels
        theirs = torch_outputs(copy.deepcopy(net), *args, training=training)
        ours = outputs(model, state, *map(jnp.asarray, args), training=training)
        pairs = [(x, theirs[1][found.match.names[k]]) for k, x in ours[1].items()]
        numbers += [
            difference([ours[0]], [theirs[0]]),
            difference(*zip(*pairs, strict=True)),
        ]
    return len(found.match.names), numbers


CASES = [
    "kuangliu resnet18", "torchvision resnet50", "chenyaofo resnet8",
    "akamaster resnet8", "weiaicunzai resnet18", "xternalz wrn10-4", "kuangliu vgg16",
    "chenyaofo vgg11", "kuangliu preact18", "sequential mlp", "timm vit",
    "resnet8 gelu group", "resnet8 silu layer", "resnet8 elu none",
    "resnet8 tanh batch",
]  # fmt: skip


@pytest.mark.parametrize("source", CASES)
def test_outputs_are_pytorchs(source, tmp_path):
    sources()
    with jax.enable_x64(True):
        _, numbers = parity(source, tmp_path / "x.safetensors", "float64")
    assert max(numbers) < 1e-12


def test_outputs_are_pytorchs_in_single_precision(tmp_path):
    sources()
    _, numbers = parity("kuangliu resnet18", tmp_path / "x.safetensors", "float32")
    assert max(numbers) < 1e-5


def test_files_of_torch_save(tmp_path):
    foreign = sources()
    import torch

    given, make = foreign.NETWORKS["kuangliu resnet18"]
    options = ImportOptions(dataset="synthetic", **given)
    net = foreign.trained(make)
    step = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    path = tmp_path / "ckpt.pth"
    for content in (
        net.state_dict(),
        {"net": net.state_dict(), "acc": 94.1, "epoch": 3},
        {"state_dict": torch.nn.DataParallel(net).state_dict(), "epoch": 3},
        {"model": net.state_dict(), "optimizer": step.state_dict()},
    ):
        torch.save(content, path)
        found = exchange.open_foreign(path, options, 10)
        array = found.arrays[found.match.names["classifier.bias"]]
        assert np.array_equal(array, net.linear.bias.detach().numpy())
        assert len(found.counters) == 20
    half = {name: x.to(torch.bfloat16) for name, x in net.state_dict().items()}
    torch.save(half, path)
    found = exchange.open_foreign(path, options, 10)
    model, state = exchange.fill(found)
    expected = net.linear.bias.to(torch.bfloat16).float().detach().numpy()
    assert np.array_equal(model.classifier.bias, expected)
    torch.save({"model": net.state_dict(), "ema": net.state_dict()}, path)
    with pytest.raises(UsageError, match="several such networks, 'model', 'ema'"):
        exchange.open_foreign(path, options, 10)
    torch.save(net, path)
    with pytest.raises(UsageError, match="more than tensors"):
        exchange.open_foreign(path, options, 10)
    torch.save({"epoch": 3}, path)
    with pytest.raises(UsageError, match="holds no state dict"):
        exchange.open_foreign(path, options, 10)
    path.write_bytes(b"no")
    with pytest.raises(UsageError, match="more than tensors|no file of PyTorch"):
        exchange.open_foreign(path, options, 10)
