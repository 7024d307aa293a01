"""`eqcifar.measure`: any network of anybody, with the table of the command."""

import re
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqcifar
from eqcifar import data, storage
from eqcifar.errors import UsageError

from .cli_tools import TINY, run_cli

_OWN = Path(__file__).parent.parent / "docs" / "howto" / "own.md"
KEY = jax.random.key(0)


def images_of(count, shape=(3, 4, 4), seed=0):
    draw = np.random.default_rng(seed)
    images = draw.normal(size=(count, *shape)).astype(np.float32)
    return images, draw.integers(0, 3, count)


def affine(params, x):
    return params["w"] @ x.ravel() + params["b"]


def test_the_trace_of_a_function_is_its_closed_form(x64):
    images, labels = images_of(20)
    images = images.astype(np.float64)
    w = np.random.default_rng(1).normal(size=(3, 48))
    found = eqcifar.measure(
        *(affine, {"w": w, "b": np.zeros(3)}, images, labels),
        *(["trace", "ntk", "lmax"],),
        probes=0,
        filters=0,
    )
    # tr (diag p - p p') (x) (x x' + 1), the mean over images.
    flat = images.reshape(20, -1)
    logits = flat @ w.T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    terms = (1 - (p**2).sum(1)) * ((flat**2).sum(1) + 1)
    assert found.values["tr_hess"].value == pytest.approx(terms.mean(), rel=1e-9)
    assert found.values["tr_hess"].examples == 20
    assert found.values["tr_ntk"].value == pytest.approx(
        3 * ((flat**2).sum(1) + 1).mean(), rel=1e-9
    )
    blocks = np.einsum("nc,nd->ncd", p, p)
    blocks = np.einsum("nc,cd->ncd", p, np.eye(3)) - blocks
    with_one = np.concatenate([flat, np.ones((20, 1))], axis=1)
    hessian = np.einsum("ncd,ni,nj->cidj", blocks, with_one, with_one) / 20
    largest = np.linalg.eigvalsh(hessian.reshape(3 * 49, -1))[-1]
    assert found.values["lmax"].value == pytest.approx(largest, rel=1e-3)


@pytest.mark.parametrize("filters", [0, -1])
def test_a_function_and_a_module_are_measured_alike(filters):
    images, labels = images_of(12)
    model = eqx.nn.Linear(48, 3, key=KEY)
    # In Flax, outputs are last.
    kernel = model.weight if filters == 0 else model.weight.T

    def function(params, x):
        w = params["kernel"] if filters == 0 else params["kernel"].T
        return w @ x.ravel() + params["bias"]

    class Flat(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, x):
            return self.linear(x.ravel())

    names = ["trace", "ntk", "unit"]
    given = {"images": images, "labels": labels, "measures": names, "probes": 0}
    params = {"kernel": np.asarray(kernel), "bias": np.asarray(model.bias)}
    own = eqcifar.measure(function, params, filters=filters, loss="mse", **given)
    theirs = eqcifar.measure(Flat(model), None, loss="mse", **given)
    assert list(own.values) == list(theirs.values)
    for name, estimate in theirs.values.items():
        assert own.values[name].value == pytest.approx(estimate.value, rel=1e-5), name
    assert {row["name"] for row in own.tables["layers"]} == {"kernel", "bias"}
    assert theirs.tables["layers"][0]["name"] == "linear.weight"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    result = run_cli(*TINY, "--loss", "ce", "--epochs", 1, "--out", out)
    assert result.exit_code == 0, result.stderr
    return storage.latest_run(out).path


@pytest.mark.slow
def test_it_is_the_table_of_the_command(trained):
    from eqcifar import measurements

    network = measurements.open_network(trained)
    split = network.dataset.train
    mean, std = network.config.mean, network.config.std
    found = eqcifar.measure(
        network.model,
        network.state,
        split.images,
        split.labels,
        ["trace"],
        loss=network.config.loss,
        prepare=lambda x: data.normalise(x, mean, std),
        split="train",
        samples=8,
        devices=1,
    )
    shown = run_cli(
        *("sharpness", trained, "--measures", "trace", "--samples", 8),
        *("--devices", 1),
    ).stdout
    rows = [line.split() for line in str(found).splitlines()]
    ours = {row[0]: row[1:3] for row in rows if row and row[0] in found.values}
    theirs = {
        row[0]: row[1:3]
        for row in map(str.split, shown.splitlines())
        if row and row[0] in found.values
    }
    assert ours == theirs
    assert "8 of" in str(found)
    assert "half the 95 % interval" in str(found)
    assert "| measure | value | ± | images | meaning |" in found._repr_markdown_()


def test_its_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    images, labels = images_of(6)
    found = eqcifar.measure(
        *(affine, {"w": np.ones((3, 48)), "b": np.zeros(3)}, images, labels),
        *(["trace"],),
        name="affine",
    )
    files = found.plot(tmp_path / "mine")
    kinds = {"convergence", "layers"}
    assert {f.name for f in files} == {
        f"mine_{kind}.{end}" for kind in kinds for end in ("png", "svg")
    }
    assert "affine, 147 parameters" in (tmp_path / "mine_layers.svg").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0, 1, 3])}, "from 0 to 3, but the network has 3 outputs"),
        ({"labels": np.zeros((3, 3))}, "labels are float64 [3, 3]"),
        ({"images": np.zeros((3, 3, 4, 4), np.uint8)}, "images are uint8"),
        ({"images": np.zeros((3, 5), np.float32)}, "one image of [5]"),
        ({"model": lambda p, x: x.sum()}, "the network returns []"),
        ({"measures": ["tracce"]}, "did you mean 'trace'"),
        ({"sample": 3}, "unknown configuration key 'sample'"),
        ({"samples": 4}, "the given split has 3 images"),
        ({"batch_statistics": True}, "batch statistics couple"),
        ({"state": {"n": np.zeros(2, int)}}, "no floating-point arrays"),
    ],
)
def test_what_cannot_be_measured(changes, message):
    images, labels = images_of(3)
    given = {
        **{"model": affine, "state": {"w": np.ones((3, 48)), "b": np.zeros(3)}},
        **{"images": images, "labels": labels, "measures": ["ntk"]},
        **changes,
    }
    with pytest.raises(UsageError, match=re.escape(message)):
        eqcifar.measure(**given)


def test_the_package_alone_needs_no_jax():
    code = "import eqcifar, sys; assert 'jax' not in sys.modules; eqcifar.nothing"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert b"module 'eqcifar' has no attribute 'nothing'" in result.stderr


def example(word):
    """The block of the manual in which a word stands, and what it prints."""
    text = _OWN.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (block,) = (each for each in blocks if "eqcifar.measure(" in each and word in each)
    images, labels = images_of(6, (3, 32, 32))
    names = {"images": images, "labels": labels}
    exec(compile(block, "own.md", "exec"), names)
    return names


def ggn_trace(function, params, images, labels):
    """The trace of the GGN of cross-entropy, from each image's Jacobian."""
    total = 0.0
    for image in images:
        logits, jacobian = function(params, image), jax.jacrev(function)(params, image)
        p = jax.nn.softmax(logits)
        middle = jnp.diag(p) - jnp.outer(p, p)
        for leaf in jax.tree.leaves(jacobian):
            rows = leaf.reshape(len(p), -1)
            total += float(jnp.sum((rows @ rows.T) * middle))
    return total / len(images)


def test_the_manuals_equinox_network(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    names = example("eqx.nn.MLP")
    found, net = names["found"], names["net"]
    printed = capsys.readouterr().out
    size = 3072 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10
    assert printed.startswith(f"MLP, {size:,} parameters, on 6 of 6 given images, ce")
    low, high = found.values["tr_hess"].interval()
    assert f"({low}, {high})" in printed
    params, static = eqx.partition(net, eqx.is_inexact_array)
    function = lambda p, x: eqx.combine(p, static)(x)  # noqa: E731
    truth = ggn_trace(function, params, names["images"], names["labels"])
    assert low - (high - low) < truth < high + (high - low)
    assert (tmp_path / "mlp_layers.png").exists()


def printed_trace(capsys):
    (row,) = re.findall(r"^tr_ggn +([\d.]+) +([\d.]+)", capsys.readouterr().out, re.M)
    return map(float, row)


def test_the_manuals_flax_network(capsys):
    pytest.importorskip("flax")
    names = example("flax")
    value, half = printed_trace(capsys)
    apply = names["Net"]().apply
    truth = ggn_trace(apply, names["params"], names["images"], names["labels"])
    assert abs(value - truth) < 2 * half


def test_the_manuals_pytorch_network(capsys):
    torch = pytest.importorskip("torch")
    names = example("torch")
    value, half = printed_trace(capsys)
    total = 0.0
    for image in torch.from_numpy(names["images"]):
        logits = names["net"](image[None])[0]
        p = torch.softmax(logits.detach(), 0)
        root = torch.diag(p.sqrt()) - torch.outer(p, p.sqrt())
        for column in root.T:
            weights = list(names["net"].parameters())
            grads = torch.autograd.grad(logits, weights, column, retain_graph=True)
            total += float(sum((g**2).sum() for g in grads))
    assert abs(value - total / 6) < 2 * half


def test_a_haiku_network():
    hk = pytest.importorskip("haiku")
    images, labels = images_of(6)

    def f(x):
        return hk.Linear(3)(jax.nn.tanh(hk.Linear(5)(x.ravel())))

    net = hk.without_apply_rng(hk.transform(f))
    params = net.init(KEY, images[0])
    found = eqcifar.measure(net.apply, params, images, labels, ["trace"], probes=0)
    truth = ggn_trace(net.apply, params, images, labels)
    assert found.values["tr_ggn"].value == pytest.approx(truth, rel=1e-5)
