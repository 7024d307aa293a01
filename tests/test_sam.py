"""Sharpness-aware minimisation against NumPy, plain JAX and PyTorch."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqcifar import runs, sharpness
from eqcifar.errors import UsageError
from eqcifar.models._count import _count
from eqcifar.parallel import make_mesh
from eqcifar.sam import perturbation
from eqcifar.training import TrainConfig, fit, initialise, make_recipe
from eqcifar.training._gradient import make_gradient
from eqcifar.training._recipe import Sam
from eqcifar.training._step import epoch_order

from .helpers import small_dataset, small_net
from .test_grad_accum import NoNorm, assert_same
from .test_muon import TwoConvolutions

# Two steps, of all images in a row.
CONFIG = TrainConfig(
    epochs=2,
    batch_size=64,
    lr=0.3,
    warmup=0.0,
    schedule="constant",
    weight_decay=0.05,
    clip_norm=0.0,
    augment=False,
)
DATA = small_dataset()


def linear_net():
    linear = eqx.nn.Linear(3, 4, key=jax.random.key(0))
    return NoNorm(linear, eqx.nn.Dropout(0.0)), eqx.nn.State({})


def train(config, network=None, devices=1, **kwargs):
    model, state = small_net() if network is None else network
    start = initialise(model, state, config, len(DATA.train))
    end, rows = fit(start, DATA, config, mesh=make_mesh(devices), **kwargs)
    return end, rows[-1]


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]


def batches(config):
    """Normalised images and one-hot labels, as the steps of a run take them."""
    split = DATA.train
    images = (split.images / 255 - 0.5) / 0.25
    key = jax.random.key(config.seed)
    for epoch in range(config.epochs):
        order = np.asarray(epoch_order(key, jnp.int32(epoch), len(split)))
        yield images[order].transpose(0, 3, 1, 2), np.eye(4)[split.labels[order]]


def outcome(config, network, radius=None, **recipe):
    """What a batch gives, of a recipe with another radius or other parts."""
    made = make_recipe(config, len(DATA.train), **recipe)
    if radius is not None:
        made = dataclasses.replace(made, sam=Sam(radius, False, config.batch_size))
    images, targets = next(batches(config))
    model, state = network
    dtype = jnp.bfloat16 if config.precision == "bf16" else model_dtype(model)
    batch = jnp.asarray(images, dtype), jnp.asarray(targets, model_dtype(model))
    keys = jax.random.split(jax.random.key(1), len(images))
    gradient = eqx.filter_jit(make_gradient(made, make_mesh(1)))
    return gradient(model, state, *batch, keys)


def model_dtype(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))[0].dtype


def linear_epsilon(gradient, values, config, l2=0.05):
    """The perturbation of a weight and a bias, in NumPy."""
    weight, _ = values
    scale = [np.abs(weight) + 0.01, 1.0] if config.sam_adaptive else [1.0, 1.0]
    g = [x + l2 * p for x, p in zip(gradient, values, strict=True)]
    scaled = [t * x for t, x in zip(scale, g, strict=True)]
    norm = np.sqrt(sum((x**2).sum() for x in scaled))
    return [config.sam * t * x / norm for t, x in zip(scale, scaled, strict=True)]


def linear_gradient(values, x, y):
    """Of the mean of half the squared distance, by hand."""
    weight, bias = values
    error = (x @ weight.T + bias - y) / len(x)
    return [error.T @ x, error.sum(0)]


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("m", [0, 16])
def test_a_linear_network_takes_the_steps_of_numpy(x64, adaptive, m):
    config = dataclasses.replace(CONFIG, sam=0.4, sam_adaptive=adaptive, sam_m=m)
    network = linear_net()
    end, _ = train(config, network)
    values = leaves(network[0].linear)
    velocity = [np.zeros_like(p) for p in values]
    for images, y in batches(config):
        x, size = images.mean((2, 3)), m or 64
        mean = [0.05 * p for p in values]
        for first in range(0, 64, size):
            part = x[first : first + size], y[first : first + size]
            epsilon = linear_epsilon(linear_gradient(values, *part), values, config)
            moved = [p + e for p, e in zip(values, epsilon, strict=True)]
            worst = linear_gradient(moved, *part)
            for k, e in enumerate(epsilon):
                mean[k] = mean[k] + (worst[k] + 0.05 * e) * size / 64
        velocity = [0.9 * v + g for v, g in zip(velocity, mean, strict=True)]
        values = [
            p - 0.3 * (0.9 * v + g)
            for p, v, g in zip(values, velocity, mean, strict=True)
        ]
    for found, expected in zip(leaves(end.model.linear), values, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("m", [64, 16])
def test_the_measure_of_the_same_name_is_the_same_function(x64, adaptive, m):
    config = dataclasses.replace(CONFIG, sam=0.4, sam_adaptive=adaptive, sam_m=m)
    model, state = linear_net()
    images, y = next(batches(config))
    values = leaves(model.linear)
    net = sharpness.Network(model, state)
    for first in range(0, 64, m):
        some, target = images[first : first + m], y[first : first + m]
        x = some.mean((2, 3))
        gradient = linear_gradient(values, x, target)
        # As training moves: see the steps of NumPy above.
        epsilon = linear_epsilon(gradient, values, config, l2=0.0)
        found = perturbation(
            model.linear, like(model.linear, gradient), 0.4, adaptive=adaptive
        )
        for a, b in zip(leaves(found), epsilon, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)

        def loss(weight, bias, x=x, target=target):
            return 0.5 * ((x @ weight.T + bias - target) ** 2).sum(1).mean()

        moved = [p + e for p, e in zip(values, epsilon, strict=True)]
        examples = sharpness.Examples(some, target.argmax(1).astype(np.int32))
        measured = sharpness.sam_sharpness(
            net, examples, "mse", radius=0.4, adaptive=adaptive
        )
        rise = loss(*moved) - loss(*values)
        assert measured.value == pytest.approx(rise, rel=1e-10)


def like(tree, numbers):
    """The numbers in the place of a tree's arrays."""
    structure = jax.tree.structure(eqx.filter(tree, eqx.is_array))
    return jax.tree.unflatten(structure, list(map(jnp.asarray, numbers)))


def plain_small_net(weights, images, statistics=None):
    """`SmallNet` in functions of JAX alone, with the moments of its batch."""
    filters, scale, shift, weight, bias = weights
    x = jax.lax.conv(images, filters, (1, 1), "SAME")
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    x = (x - mean[:, None, None]) / jnp.sqrt(variance + 1e-5)[:, None, None]
    x = x * scale[:, None, None] + shift[:, None, None]
    return jax.nn.relu(x).mean((2, 3)) @ weight.T + bias, (mean, variance)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_network_takes_the_steps_of_the_published_pseudo_code(x64, adaptive):
    config = dataclasses.replace(CONFIG, sam=0.2, sam_adaptive=adaptive, loss="ce")
    network = small_net()
    end, _ = train(config, network)

    def loss(weights, images, y):
        logits, moments = plain_small_net(weights, images)
        value = -jnp.mean(jnp.sum(y * jax.nn.log_softmax(logits), axis=1))
        penalty = sum(jnp.sum(w**2) for w in weights)
        return value + 0.05 / 2 * penalty, moments

    gradient = jax.grad(loss, has_aux=True)
    weights = [jnp.asarray(w) for w in leaves(network[0])]
    # Filters and the matrix; BatchNorm's and the bias count as they are.
    scaled = [adaptive, False, False, adaptive, False]
    velocity = [jnp.zeros_like(w) for w in weights]
    mean = variance = jnp.zeros(6)
    for images, y in batches(config):
        g, (mean, variance) = gradient(weights, images, y)
        t = [abs(w) + 0.01 if s else 1.0 for w, s in zip(weights, scaled, strict=True)]
        scaled_g = jax.tree.map(lambda a, b: a * b, t, g)
        reach = 0.2 / jnp.linalg.norm(ravel_pytree(scaled_g)[0])
        step = jax.tree.map(lambda a, b: a**2 * b, t, g)
        moved = [w + reach * x for w, x in zip(weights, step, strict=True)]
        g, _ = gradient(moved, images, y)
        velocity = jax.tree.map(lambda v, x: 0.9 * v + x, velocity, g)
        weights = jax.tree.map(
            lambda w, v, x: w - 0.3 * (0.9 * v + x), weights, velocity, g
        )
    for found, expected in zip(leaves(end.model), weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    # The last tenth of running statistics is that of the unperturbed pass.
    before, _ = train(dataclasses.replace(config, epochs=1), network)
    for old, new, moment in zip(
        leaves(before.state), leaves(end.state), [mean, variance], strict=True
    ):
        np.testing.assert_allclose(new, 0.9 * old + 0.1 * moment, rtol=0.01)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_network_takes_the_steps_of_pytorch(x64, adaptive):
    torch = pytest.importorskip("torch", reason="pip install 'eqcifar[torch]'")
    config = dataclasses.replace(CONFIG, sam=0.2, sam_adaptive=adaptive, loss="ce")
    network = small_net()
    end, _ = train(config, network)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(6),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(6, 4),
    ).double()
    parameters = list(net.parameters())
    with torch.no_grad():
        for parameter, value in zip(parameters, leaves(network[0]), strict=True):
            parameter.copy_(torch.from_numpy(value.copy()))
    optimiser = torch.optim.SGD(parameters, 0.3, momentum=0.9, nesterov=True)
    norm = net[1]
    for images, y in batches(config):
        images, labels = torch.from_numpy(images), torch.from_numpy(y.argmax(1))

        def backward(images=images, labels=labels):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(images), labels)
            penalty = sum((p**2).sum() for p in parameters)
            (loss + 0.05 / 2 * penalty).backward()

        backward()
        with torch.no_grad():
            kept = [p.clone() for p in parameters]
            t = [
                p.abs() + 0.01 if adaptive and p.ndim > 1 else torch.ones_like(p)
                for p in parameters
            ]
            scaled = [a * p.grad for a, p in zip(t, parameters, strict=True)]
            length = torch.cat([x.flatten() for x in scaled]).norm()
            for p, a, x in zip(parameters, t, scaled, strict=True):
                p.add_(0.2 / length * a * x)
        # The statistics of this pass do not count.
        norm.momentum = 0.0
        backward()
        norm.momentum = 0.1
        with torch.no_grad():
            for p, value in zip(parameters, kept, strict=True):
                p.copy_(value)
        optimiser.step()
    for found, expected in zip(leaves(end.model), parameters, strict=True):
        np.testing.assert_allclose(
            found, expected.detach().numpy(), rtol=1e-9, atol=1e-12
        )
    np.testing.assert_allclose(leaves(end.state)[0], norm.running_mean, rtol=1e-9)


def test_without_a_radius_the_digits_are_those_of_a_run_without():
    off = dataclasses.replace(CONFIG, sam=0.0, sam_adaptive=True, sam_m=16)
    for found, expected in zip(
        leaves(train(off)[0]), leaves(train(CONFIG)[0]), strict=True
    ):
        assert (found == expected).all()
    # Nor does the other way to the gradient change one, at distance 0.
    network = small_net(dropout=0.3)
    plain, here = outcome(CONFIG, network), outcome(CONFIG, network, radius=0.0)
    for found, expected in zip(leaves(here), leaves(plain), strict=True):
        assert (found == expected).all()


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_gradient_of_zero_moves_nothing(adaptive):
    config = dataclasses.replace(
        CONFIG, sam=0.1, sam_adaptive=adaptive, weight_decay=0.0
    )
    network = small_net()
    end, row = train(config, network, loss=lambda logits, target: 0.0 * logits.sum())
    for found, expected in zip(leaves(end.model), leaves(network[0]), strict=True):
        assert (found == expected).all()
    assert row["gradient_norm"] == 0
    # And one whose squares are below all numbers is taken for one.
    assert perturbation(jnp.ones(2), jnp.full(2, 1e-30), 1.0) == pytest.approx([0, 0])


@pytest.fixture(scope="module")
def whole():
    with jax.enable_x64(True):
        return train(GROUPED, small_net(dropout=0.3))


GROUPED = dataclasses.replace(
    CONFIG, epochs=1, batch_size=32, sam=0.2, sam_m=16, bn_group=8, mixup=0.4, ema=0.5
)


@pytest.mark.parametrize(
    ("devices", "grad_accum", "remat"),
    [
        (8, 1, False),
        (1, 4, True),
        pytest.param(4, 2, False, marks=pytest.mark.slow),
    ],
)
def test_devices_pieces_and_remat_do_not_change_the_numbers(
    x64, whole, devices, grad_accum, remat
):
    network = small_net(dropout=0.3)
    found = train(GROUPED, network, devices, grad_accum=grad_accum, remat=remat)
    assert_same(found, whole)


def test_pieces_of_one_group_share_its_perturbation(x64):
    config = dataclasses.replace(GROUPED, sam_m=0)
    network = small_net(dropout=0.3)
    assert_same(train(config, network, grad_accum=4), train(config, network))


@pytest.mark.parametrize("m", [0, 16])
def test_a_step_costs_two_gradients(m):
    def cost(config):
        model, state = small_net()
        gradient = make_gradient(make_recipe(config, len(DATA.train)), make_mesh(1))
        images, targets = next(batches(config))
        arguments = state, jnp.asarray(images, jnp.float32), jnp.asarray(targets, "f4")
        keys = jax.random.split(jax.random.key(1), len(images))
        jaxpr, _, _ = eqx.filter_make_jaxpr(gradient)(model, *arguments, keys)
        return _count(jaxpr.jaxpr)

    plain = dataclasses.replace(CONFIG, bn_group=m)
    sam = dataclasses.replace(plain, sam=0.1, sam_m=m)
    assert cost(sam) == 2 * cost(plain) > 0


@pytest.mark.parametrize(
    ("optimiser", "precision"),
    [("sgd", "bf16"), ("adamw", "f32"), ("muon", "f32"), ("muon", "bf16")],
)
def test_it_is_from_the_l2_of_the_optimiser_in_the_network_s_precision(
    optimiser, precision
):
    config = dataclasses.replace(
        CONFIG,
        optimiser=optimiser,
        muon_lr=0.1 if optimiser == "muon" else 0.0,
        precision=precision,
        sam=0.5,
    )
    network = eqx.nn.make_with_state(TwoConvolutions)(key=jax.random.key(0))
    model, state = network
    without = dataclasses.replace(config, sam=0.0)
    here = outcome(without, network)
    # AdamW decays beside the loss, and Muon's filters have no decay.
    l2 = jax.tree.map(lambda _: 0.05, here.gradient)
    if optimiser == "adamw":
        l2 = jax.tree.map(lambda _: 0.0, l2)
    if optimiser == "muon":
        l2 = eqx.tree_at(lambda tree: tree.second.weight, l2, 0.0)
    parameters = eqx.filter(model, eqx.is_inexact_array)
    g = jax.tree.map(lambda g, k, p: g + k * p, here.gradient, l2, parameters)
    norm = np.sqrt(sum((np.asarray(x, float) ** 2).sum() for x in leaves(g)))
    epsilon = jax.tree.map(lambda x: np.float32(0.5 / norm) * x, g)
    moved = eqx.apply_updates(model, epsilon)
    there = outcome(without, (moved, state)).gradient
    expected = jax.tree.map(lambda g, k, e: g + k * e, there, l2, epsilon)
    found = outcome(config, network)
    largest = max(np.abs(x).max() for x in leaves(expected))
    for a, b in zip(leaves(found.gradient), leaves(expected), strict=True):
        assert a.dtype == np.float32
        tolerance = 0.02 if precision == "bf16" else 1e-5
        np.testing.assert_allclose(a, b, atol=tolerance * largest)
    for a, b in zip(leaves(found.state), leaves(here.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    end, _ = train(config, network)
    assert all(np.isfinite(x).all() for x in leaves(end.model))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sam": -0.1}, "sam = -0.1: must be at least 0"),
        ({"sam": 0.1, "sam_m": 5}, "sam_m = 5: must be 0 or a divisor of the batch"),
    ],
)
def test_what_is_no_radius_and_no_group_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(CONFIG, **values)


def test_groups_that_would_change_batch_statistics_are_refused():
    config = dataclasses.replace(CONFIG, sam=0.1, sam_m=16)
    with pytest.raises(UsageError, match="sam_m = 16 takes .* choose --bn-group 16"):
        train(config)
    train(config, linear_net())


def test_a_run_keeps_its_radius(tmp_path):
    config = dataclasses.replace(CONFIG, sam=0.1, sam_m=16, sam_adaptive=True)
    run = runs.train_run_with(tmp_path / "run", DATA, *linear_net(), config)
    kept = json.loads((run.path / "config.json").read_text())["config"]
    assert (kept["sam"], kept["sam_m"], kept["sam_adaptive"]) == (0.1, 16, True)
    other = dataclasses.replace(config, sam=0.2)
    with pytest.raises(UsageError, match="sam = 0.1 there, 0.2 here"):
        runs.train_run_with(tmp_path / "run", DATA, *linear_net(), other)
