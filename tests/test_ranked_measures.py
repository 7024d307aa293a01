"""Measures that the literature ranks, by other roads, and what changes nothing."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import brentq
from scipy.stats import norm

from eqcifar import measurements, models, results, sharpness, storage
from eqcifar.config import SharpnessOptions
from eqcifar.errors import RunError, UsageError
from eqcifar.runs import named_arrays, replace_arrays
from eqcifar.sharpness import Examples, Network

from .cli_tools import TINY, run_cli
from .helpers import random_network
from .sharpness_tools import CLASSES, Linear, UnitLogits, close, data, dense, make


def arrays_of(*network: Any) -> dict[str, Any]:
    return dict(named_arrays(*network))


def measure(network, examples, name, loss="ce", **options):
    options = {"probes": 2, **options}
    return measurements.compute_measure(
        network, examples, name, loss, key=jax.random.key(0), **options
    ).values


@pytest.fixture(scope="module")
def resnet():
    """A small ResNet, its examples, and the derivatives of its logits."""
    with jax.enable_x64(True):
        network, examples = Network(*make("resnet")), data(8)
        return network, examples, dense(network, examples)


def with_params(network, params):
    return eqx.tree_at(lambda n: n.params, network, params)


def rescaled(network, factor):
    """The same function: the first BatchNorm's output times `factor`, and undone.

    What follows is a ReLU and the second convolution of a block.
    """
    block = network.params.blocks[0]
    params = eqx.tree_at(
        lambda p: (
            p.blocks[0].norm1.weight,
            p.blocks[0].norm1.bias,
            p.blocks[0].conv2.weight,
        ),
        network.params,
        (
            factor * block.norm1.weight,
            factor * block.norm1.bias,
            block.conv2.weight / factor,
        ),
    )
    return with_params(network, params)


def test_margins_are_those_of_the_logits(x64, resnet):
    network, examples, truth = resnet
    found = measure(network, examples, "margins")
    others = np.where(np.eye(CLASSES)[truth.labels] > 0, -np.inf, truth.f).max(1)
    margins = truth.f[np.arange(8), truth.labels] - others
    close(found["margin"].value, margins.mean())
    close(found["margin_10"].value, np.quantile(margins, 0.1))
    # Every image of the split was seen.
    assert found["margin"].standard_error == 0
    same = measure(rescaled(network, 4.0), examples, "margins")
    for name in ("margin", "margin_10"):
        close(same[name].value, found[name].value)


def test_the_error_of_a_margin_s_quantile_is_that_of_its_draw(x64):
    """Of a linear network, 40 draws of 200 images of 2000."""
    network = Network(*eqx.nn.make_with_state(Linear)(3 * 8 * 8, key=jax.random.key(0)))
    whole = data(2000, batch_size=500)
    # Labels that it gets right, so that the quantile is positive.
    logits = np.asarray(network(network.params, jnp.asarray(whole.images)))
    whole = Examples(whole.images, logits.argmax(1).astype(np.int32), batch_size=500)
    truth = measure(network, whole, "margins")
    draws = [measure(network, whole.sample(200, seed), "margins") for seed in range(40)]
    for name in ("margin", "margin_10"):
        z = [
            (each[name].value - truth[name].value) / each[name].standard_error
            for each in draws
        ]
        assert 0.7 < np.std(z) < 1.5, name
        assert abs(np.mean(z)) < 0.7, name
    value = truth["margin_10"].value
    assert truth["inverse_margin"].value == pytest.approx(value**-2)


def test_fisher_rao_is_the_square_of_the_radial_slope(x64, resnet):
    network, examples, truth = resnet
    theta = ravel_pytree(network.params)[0]
    for loss in ("ce", "mse"):
        gradient = np.einsum("ic,icp->ip", truth.inner(loss)[0], truth.j)
        found = measure(network, examples, "fisher_rao", loss)["fisher_rao"]
        close(found.value, ((gradient @ np.asarray(theta)) ** 2).mean())
    same = measure(rescaled(network, 4.0), examples, "fisher_rao", "mse")
    close(same["fisher_rao"].value, found.value)


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_relative_flatness_is_that_of_the_dense_hessian(x64, resnet, loss):
    network, examples, truth = resnet
    found = measure(network, examples, "flatness", loss)["relative_flatness"]
    weight = np.asarray(network.params.classifier.weight)
    # Places of the classifier's weights among all parameters.
    numbered = jax.tree.map(jnp.zeros_like, network.params)
    numbered = eqx.tree_at(
        lambda p: p.classifier.weight, numbered, jnp.ones_like(weight)
    )
    at = np.flatnonzero(np.asarray(ravel_pytree(numbered)[0]))
    hessian = truth.hessian(loss).mean(0)[np.ix_(at, at)]
    blocks = hessian.reshape(*weight.shape, *weight.shape)
    traces = np.einsum("sdtd->st", blocks)
    close(found.value, (weight @ weight.T * traces).sum())
    # Features times 4, and the classifier divided by it.
    params = eqx.tree_at(
        lambda p: (
            p.blocks[-1].norm2.weight,
            p.blocks[-1].norm2.bias,
            p.blocks[-1].shortcut.norm.weight,
            p.blocks[-1].shortcut.norm.bias,
            p.classifier.weight,
        ),
        network.params,
        (
            4 * network.params.blocks[-1].norm2.weight,
            4 * network.params.blocks[-1].norm2.bias,
            4 * network.params.blocks[-1].shortcut.norm.weight,
            4 * network.params.blocks[-1].shortcut.norm.bias,
            network.params.classifier.weight / 4,
        ),
    )
    same = measure(with_params(network, params), examples, "flatness", loss)
    close(same["relative_flatness"].value, found.value)


def test_relative_flatness_needs_a_classifier(x64):
    with pytest.raises(UsageError, match="a linear layer named classifier"):
        measure(Network(*make("relu")), data(4), "flatness")


class Two(eqx.Module):
    """Logits w x and 0, which say class 0 where w x is positive."""

    weight: jax.Array

    def __call__(self, x, state, *, key=None):
        first = self.weight @ jnp.ravel(x)
        return jnp.stack([first, jnp.zeros_like(first)]), state


@pytest.mark.parametrize("magnitude", [None, 0.05])
def test_the_noise_that_an_accuracy_bears_in_closed_form(x64, magnitude):
    """Of w x with noise of deviation s_j on w_j, right is one normal probability."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(400, 1, 2, 2))
    weight = rng.normal(size=4)
    flat = images.reshape(400, 4)
    labels = (flat @ weight < 0).astype(np.int32)
    network = Network(*eqx.nn.make_with_state(Two)(jnp.asarray(weight)))
    examples = Examples(images, labels, batch_size=400)

    def drop(sigma):
        square = np.full(4, sigma**2)
        if magnitude is not None:
            square = (sigma * weight) ** 2 + magnitude**2
        z = np.abs(flat @ weight) / np.sqrt(flat**2 @ square)
        return 1 - norm.cdf(z).mean()

    expected: Any = brentq(lambda sigma: drop(sigma) - 0.1, 1e-4, 2.0)
    found = [
        sharpness.pac_bayes_sigma(
            network,
            examples,
            magnitude=magnitude,
            draws=40,
            key=jax.random.key(seed),
        )
        for seed in range(5)
    ]
    z = [(each.value - expected) / each.standard_error for each in found]
    assert max(map(abs, z)) < 3.5
    assert np.mean([e.standard_error for e in found]) < 0.25 * expected
    spread = np.std([e.value for e in found], ddof=1)
    assert 0.3 < spread / np.mean([e.standard_error for e in found]) < 2.2


class Deep(eqx.Module):
    """f = x times the product of scales, beyond float32 where noise doubles them."""

    scales: Any

    def __call__(self, x, state, *, key=None):
        return jnp.ravel(x)[:CLASSES] * jnp.prod(1e3 * self.scales), state


def test_noise_that_takes_logits_beyond_all_numbers_is_an_error_of_the_network():
    images = np.random.default_rng(0).normal(size=(40, 3, 1, 1)).astype(np.float32)
    labels = images.reshape(40, 3).argmax(1).astype(np.int32)
    model = Deep(jnp.ones(12))
    network = Network(model, eqx.nn.State(model))
    examples = Examples(images, labels, batch_size=8)
    doubled = jax.tree.map(lambda x: 2.5 * x, network.params)
    with pytest.raises(RunError, match="not finite"):
        sharpness.loss_at(network, examples, "mse", doubled)
    found = sharpness.pac_bayes_sigma(
        network, examples, draws=20, key=jax.random.key(0)
    )
    # The sign of the product turns where a scale does: 12 P(z < -1 / sigma) = 0.1.
    assert found.value == pytest.approx(-1 / norm.ppf(0.1 / 12), abs=0.1)


def test_noise_of_the_magnitude_of_weights_knows_of_no_scale(x64, resnet):
    network, examples, _ = resnet
    # A network whose own predictions are the labels.
    logits = np.asarray(network(network.params, jnp.asarray(examples.images)))
    labels = logits.argmax(1).astype(np.int32)
    examples = Examples(examples.images, labels, batch_size=8)
    one, two = (
        measure(each, examples, "pac_bayes")
        for each in (network, rescaled(network, 16.0))
    )
    plain, aware = (one[n].value / two[n].value for n in ("pac_sigma", "pac_sigma_mag"))
    assert abs(math.log(aware)) < 0.2 < abs(math.log(plain))
    for name in ("pac_bayes", "pac_bayes_mag"):
        sigma = one[name.replace("bayes", "sigma")]
        assert one[name].value == pytest.approx(sigma.value**-2)
        assert one[name].standard_error == pytest.approx(
            2 * sigma.standard_error / sigma.value**3
        )


def vgg(norm="batch"):
    """A small VGG with running statistics as if trained, in float64."""
    build = eqx.nn.make_with_state(models.VGG)
    options = {"depths": (1, 2), "channels": (3, 4), "hidden": (5,), "norm": norm}
    made = random_network(build, CLASSES, **options)
    wide = lambda x: x.astype(float) if eqx.is_inexact_array(x) else x  # noqa: E731
    return jax.tree.map(wide, (made.model, made.state))


def without_norm(model, state):
    """The same function, whose BatchNorms are in the weights and biases."""
    plain, plain_state = vgg("none")
    arrays, into = arrays_of(model, state), arrays_of(plain, plain_state)
    for name in into:
        into[name] = arrays[name]
    for stage, number in ((0, 0), (1, 0), (1, 1)):
        conv, norm_ = f"stages.{stage}.{number}.0", f"stages.{stage}.{number}.1"
        part = {k: arrays[f"{norm_}.{k}"] for k in ("weight", "bias")}
        mean, var = (arrays[f"{norm_}.running_{k}"] for k in ("mean", "var"))
        scale = part["weight"] / jnp.sqrt(var + 1e-5)
        into[f"{conv}.weight"] = arrays[f"{conv}.weight"] * scale[:, None, None, None]
        into[f"{conv}.bias"] = (arrays[f"{conv}.bias"] - mean) * scale + part["bias"]
    return replace_arrays(plain, plain_state, into)


def test_a_network_s_norms_are_those_of_its_layers_with_batch_norm(x64):
    model, state = vgg()
    plain, plain_state = without_norm(model, state)
    images = jnp.asarray(data(3).images)

    @eqx.filter_jit
    def logits(model, state):
        model = eqx.nn.inference_mode(model)
        return jax.vmap(lambda x: model(x, state)[0])(images)

    close(logits(plain, plain_state), logits(model, state))
    found = measure(Network(model, state), data(3), "norms")
    kernels = [
        np.asarray(x).reshape(len(x), -1)
        for name, x in arrays_of(plain, plain_state).items()
        if name.endswith("weight")
    ]
    assert len(kernels) == 5
    squares = np.array(
        [np.linalg.svd(k, compute_uv=False) ** 2 for k in kernels], object
    )
    frobenius, spectral = (np.array([f(s) for s in squares]) for f in (np.sum, np.max))
    close(found["frobenius"].value, frobenius.sum())
    close(found["log_frobenius"].value, np.log(frobenius).sum())
    close(found["log_spectral"].value, np.log(spectral).sum())
    close(found["stable_rank"].value, (frobenius / spectral).sum())
    assert {e.examples for e in found.values()} == {0}
    # The path norm, too, is that of the network without BatchNorm.
    one = measure(Network(model, state), data(3), "path")["log_path"]
    two = measure(Network(plain, plain_state), data(3), "path")["log_path"]
    close(one.value, two.value)


def test_what_layers_share_out_changes_products_but_not_the_sum(x64, resnet):
    network, examples, _ = resnet
    other = rescaled(network, 4.0)
    one, two = (measure(each, examples, "norms") for each in (network, other))
    for name in ("log_frobenius", "log_spectral", "stable_rank"):
        close(two[name].value, one[name].value)
    assert abs(two["frobenius"].value / one["frobenius"].value - 1) > 0.01
    one, two = (measure(each, examples, "path") for each in (network, other))
    close(two["log_path"].value, one["log_path"].value)


def test_the_path_norm_is_a_sum_over_paths(x64):
    build = eqx.nn.make_with_state(models.MLP)
    made = random_network(build, CLASSES, hidden=(5, 4), features=3 * 8 * 8)
    y = np.ones(3 * 8 * 8)
    for layer in (*made.model.hidden, made.model.classifier):
        y = (
            np.asarray(layer.weight, float) ** 2 @ y
            + np.asarray(layer.bias, float) ** 2
        )
    found = measure(Network(made.model, made.state), data(3), "path")["log_path"]
    close(found.value, math.log(y.sum()), 1e-6)


def test_a_path_norm_needs_relus_and_fixed_scales(x64):
    for options in ({"activation": "tanh"}, {"norm": "layer"}):
        more: Any = options
        build = eqx.nn.make_with_state(models.VGG)
        made = random_network(build, CLASSES, depths=(1,), channels=(4,), **more)
        with pytest.raises(UsageError, match="the path norm is of networks"):
            measure(Network(made.model, made.state), data(3), "path")


def test_the_distance_is_from_where_training_began(x64):
    (model, state), (first, first_state) = vgg(), vgg()
    first = jax.tree.map(lambda x: 0.5 * x if eqx.is_inexact_array(x) else x, first)
    found = measure(
        Network(model, state), data(3), "distance", start=lambda: (first, first_state)
    )
    plain = [
        {
            name: np.asarray(x).reshape(len(x), -1)
            for name, x in arrays_of(*without_norm(*each)).items()
            if name.endswith("weight")
        }
        for each in ((model, state), (first, first_state))
    ]
    moves = [plain[0][name] - plain[1][name] for name in plain[0]]
    close(found["distance"].value, sum((move**2).sum() for move in moves))
    spectral = sum(np.linalg.svd(move, compute_uv=False)[0] ** 2 for move in moves)
    close(found["spectral_distance"].value, spectral)
    with pytest.raises(UsageError, match="not known what training began with"):
        measure(Network(model, state), data(3), "distance")


def test_a_run_knows_what_it_began_with(tmp_path):
    run = *TINY, "--epochs", 1, "--out", tmp_path
    assert run_cli(*run).exit_code == 0
    (path,) = (run.path for run in storage.find_runs(tmp_path))
    trained = measurements.open_network(path)
    anew = arrays_of(*trained.start())
    again = tmp_path / "kept"
    assert run_cli(*run[:-1], again, "--keep-every", 1).exit_code == 0
    (kept,) = (run for run in storage.find_runs(again))
    file = arrays_of(*measurements.open_network(kept.path).start())
    assert kept.checkpoint(0).exists()
    for name, array in anew.items():
        assert np.array_equal(array, file[name]), name
    how = "--samples", 8, "--devices", 1, "--measures", "norms,distance"
    result = run_cli("sharpness", path, *how)
    assert result.exit_code == 0, result.stderr
    assert "spectral_distance" in result.stdout
    # Of no image, and so there for any number of them.
    options = SharpnessOptions(samples=30)
    assert results.is_measured(storage.Run(path), ["norms"], ["train"], options)


def test_the_worst_rise_of_a_quadratic_is_that_of_its_ball(x64):
    """Of a linear network and mse, the maximum over a sphere solves one equation."""
    network = Network(*eqx.nn.make_with_state(Linear)(3 * 8 * 8, key=jax.random.key(0)))
    examples, radius = data(6), 0.3
    theta = np.asarray(ravel_pytree(network.params)[0])
    truth = dense(network, examples)
    hessian = truth.hessian("mse").mean(0)
    slope = np.einsum("ic,icp->ip", truth.inner("mse")[0], truth.j).mean(0)
    values, vectors = np.linalg.eigh(hessian)
    along = vectors.T @ slope
    # delta = (nu - H)^-1 g with nu above the largest eigenvalue.
    length = lambda nu: np.linalg.norm(along / (nu - values)) - radius  # noqa: E731
    nu: Any = brentq(length, values[-1] * (1 + 1e-9), values[-1] + 1e3)
    delta = vectors @ (along / (nu - values))
    expected = slope @ delta + delta @ hessian @ delta / 2
    how = {"radius": radius, "m": 6}
    found = sharpness.m_sharpness(network, examples, "mse", **how)
    assert 0.98 * expected < found.value <= expected * (1 + 1e-9)
    assert (found.examples, found.standard_error) == (6, 0)
    # In the box, a small radius is that of the signs of the slope.
    how = {"radius": 1e-6, "m": 6, "ball": "linf"}
    found = sharpness.m_sharpness(network, examples, "mse", **how)
    close(found.value, 1e-6 * np.abs(slope).sum(), 1e-3)
    # Relative to weights, and to 1 for biases; ASAM adds 0.01.
    weights = jax.tree.map(lambda x: jnp.full(x.shape, x.ndim > 1), network.params)
    weights = np.asarray(ravel_pytree(weights)[0])
    scale = np.where(weights, np.abs(theta) + 0.01, 1)
    found = sharpness.m_sharpness(network, examples, "mse", adaptive=True, **how)
    close(found.value, 1e-6 * (scale * np.abs(slope)).sum(), 1e-3)
    found = sharpness.m_sharpness(
        network, examples, "mse", radius=1e-6, m=6, adaptive=True
    )
    close(found.value, 1e-6 * np.linalg.norm(scale * slope), 1e-3)


def test_each_group_has_a_worst_rise_of_its_own(x64):
    network = Network(*eqx.nn.make_with_state(Linear)(3 * 8 * 8, key=jax.random.key(0)))
    examples = data(13)
    how = {"radius": 0.1, "steps": 4}
    alone = [
        sharpness.m_sharpness(
            network, examples.take(np.arange(at, at + 4)), "ce", m=4, **how
        )
        for at in (0, 4, 8)
    ]
    values = np.array([each.value for each in alone])
    found = sharpness.m_sharpness(
        network, examples, "ce", m=4, target="population", **how
    )
    # The image that is left over is in no group.
    assert found.examples == 12
    close(found.value, values.mean())
    close(found.standard_error, values.std(ddof=1) / 3**0.5)
    more = sharpness.m_sharpness(network, examples, "ce", m=4, radius=0.1, steps=20)
    assert more.value >= found.value
    with pytest.raises(UsageError, match="the radius must be positive"):
        sharpness.m_sharpness(network, examples, "ce", radius=0.0)


def test_adaptive_rises_know_of_no_scale_between_layers(x64, resnet):
    network, examples, _ = resnet
    # Convolutions alone, for biases and the scales of normalisation are not relative.
    model = eqx.combine(network.params, network.static)
    arrays = arrays_of(model, network.state)
    arrays["blocks.0.conv1.weight"] *= 4
    arrays["blocks.0.norm1.running_mean"] *= 4
    variance = arrays["blocks.0.norm1.running_var"]
    arrays["blocks.0.norm1.running_var"] = 16 * (variance + 1e-5) - 1e-5
    other = Network(*replace_arrays(model, network.state, arrays))
    found = measure(network, examples, "m_sharpness", "mse")
    same = measure(other, examples, "m_sharpness", "mse")
    for name in ("worst_adaptive", "worst_max_adaptive"):
        # But for the 0.01 that ASAM adds.
        close(same[name].value, found[name].value, 1e-3)
    assert abs(same["worst_max"].value / found["worst_max"].value - 1) > 0.01


class Product(eqx.Module):
    """f = W x."""

    weight: Any

    def __call__(self, x, state, *, key=None):
        return self.weight @ jnp.ravel(x), state


def test_unit_logits_have_rises_that_know_of_no_scale_of_the_last_layer(x64):
    weight = 10 * np.random.default_rng(0).normal(size=(CLASSES, 3 * 8 * 8))
    model, examples = Product(jnp.asarray(weight)), data(6)
    state = eqx.nn.State(model)

    def rises(model, name):
        return measure(Network(model, state), examples, name, "ce")

    found = rises(model, "m_sharpness_unit")
    scaled = rises(Product(8 * model.weight), "m_sharpness_unit")
    for name in ("worst_adaptive_unit", "worst_max_adaptive_unit"):
        # But for the 0.01 that ASAM adds.
        close(scaled[name].value, found[name].value, 3e-3)
    assert scaled["worst_unit"].value < found["worst_unit"].value / 2
    # It is the measure of a network that divides by itself.
    divided = rises(UnitLogits(model), "m_sharpness")
    assert found.keys() == {f"{name}_unit" for name in divided}
    for name, estimate in divided.items():
        close(found[f"{name}_unit"].value, estimate.value)


def test_the_log_determinant_is_that_of_the_dense_matrix(x64, resnet):
    network, examples, truth = resnet
    theta = np.abs(np.asarray(ravel_pytree(network.params)[0]))
    ggn = truth.ggn("ce").mean(0)
    scaled = theta[:, None] * ggn * theta
    found = measure(network, examples, "log_det", probes=12)
    for name, matrix in (("log_det", ggn), ("log_det_theta", scaled)):
        expected = np.linalg.slogdet(np.eye(len(matrix)) + matrix / 5e-4)[1]
        error = found[name].value - expected
        assert abs(error) < 4 * found[name].standard_error, name
        assert found[name].standard_error < 0.2 * expected
        assert found[name].examples == 8
    same = measure(rescaled(network, 4.0), examples, "log_det", probes=12)
    # The same random vectors see the same matrix.
    close(same["log_det_theta"].value, found["log_det_theta"].value, 1e-6)
    plain = same["log_det"].value / found["log_det"].value
    assert abs(plain - 1) > 1e-3


@pytest.mark.slow
def test_log_determinants_cover_the_truth_and_are_exact_where_all_vectors_agree(x64):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(60, 30)) / 8
    matrix = jnp.asarray(root @ root.T)
    truth = np.linalg.slogdet(np.eye(60) + np.asarray(matrix) / 0.1)[1]
    apply = sharpness.Operator(lambda v: matrix @ v, 60)
    z = []
    for seed in range(60):
        found = sharpness.log_determinant(
            apply, 0.1, probes=8, steps=40, key=jax.random.key(seed)
        )
        low, high = found.interval()
        z.append(low <= truth <= high)
    assert np.mean(z) > 0.86
    identity = sharpness.Operator(lambda v: 3.0 * v, 60)
    found = sharpness.log_determinant(identity, 0.5, probes=2, key=jax.random.key(0))
    close(found.value, 60 * math.log(7))
    assert found.standard_error < 1e-9
    with pytest.raises(UsageError, match="precision must be positive"):
        sharpness.log_determinant(identity, 0.0, probes=2, key=jax.random.key(0))
