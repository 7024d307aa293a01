"""Muon against singular value decompositions in NumPy."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import runs
from eqcifar.errors import UsageError
from eqcifar.models import BatchNorm
from eqcifar.parallel import make_mesh
from eqcifar.training import (
    Interrupted,
    TrainConfig,
    fit,
    initialise,
    l2_coefficients,
)
from eqcifar.training._optimisers import make_optimiser
from eqcifar.training._schedules import learning_rate

from .helpers import small_dataset, small_net

CONFIG = TrainConfig(
    epochs=1, batch_size=16, lr=0.5, warmup=0.0, optimiser="muon", muon_lr=0.2
)


class TwoConvolutions(eqx.Module):
    """One that takes colours, and one that Muon moves."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    norm: BatchNorm
    linear: eqx.nn.Linear

    def __init__(self, *, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(3, 5, 3, use_bias=False, key=keys[0])
        self.second = eqx.nn.Conv2d(5, 7, 3, key=keys[1])
        self.norm = BatchNorm(7)
        self.linear = eqx.nn.Linear(7, 4, key=keys[2])

    def __call__(self, x, state, *, key=None):
        x = jax.nn.relu(self.first(x))
        x, state = self.norm(self.second(x), state)
        return self.linear(jax.nn.relu(x).mean((1, 2))), state


def start(seed=0):
    network = eqx.nn.make_with_state(TwoConvolutions)(key=jax.random.key(seed))
    return initialise(*network, CONFIG, 64)


def train(devices=1, **kwargs):
    return fit(start(), small_dataset(), CONFIG, mesh=make_mesh(devices), **kwargs)[0]


def arrays(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), tree)


def newton_schulz(singular_values):
    """Three iterations, of which each is a polynomial of the singular values."""
    s = singular_values / np.linalg.norm(singular_values)
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize("shape", [(4, 6, 3, 3), (12, 4, 1, 1)])
def test_filters_move_by_all_directions_alike_and_are_rescaled(x64, shape):
    config = dataclasses.replace(CONFIG, clip_norm=0.0)
    parameters: Any = random_like({"filters": jnp.zeros(shape)}, seed=0)
    rate = learning_rate(config, 64)
    optimiser = make_optimiser(config, rate)
    state = optimiser.init(parameters)
    momentum, average = config.muon_momentum, 0.0
    for t in range(3):
        gradient = random_like(parameters, seed=t + 1)
        before = np.asarray(parameters["filters"])
        updates, state = optimiser.update(gradient, state, parameters)
        parameters = eqx.apply_updates(parameters, updates)

        g = np.asarray(gradient["filters"]).reshape(len(before), -1)
        average = momentum * average + (1 - momentum) * g
        direction = momentum * average / (1 - momentum ** (t + 2))
        direction += (1 - momentum) * g / (1 - momentum ** (t + 1))
        u, s, vt = np.linalg.svd(direction, full_matrices=False)
        step = u * newton_schulz(s) @ vt
        assert 0.5 < newton_schulz(s).min() < newton_schulz(s).max() < 1.3
        expected = np.sqrt(len(before)) * before / np.linalg.norm(before)
        expected -= 0.2 / 0.5 * float(rate(t)) * step.reshape(before.shape)
        np.testing.assert_allclose(parameters["filters"], expected, atol=1e-8)


def test_filters_of_zeros_move_by_the_step_alone(x64):
    config = dataclasses.replace(CONFIG, clip_norm=0.0)
    parameters: Any = {"filters": jnp.zeros((4, 6, 3, 3))}
    gradient: Any = random_like(parameters, 1)
    optimiser = make_optimiser(config, learning_rate(config, 64))
    updates: Any = optimiser.update(gradient, optimiser.init(parameters), parameters)[0]
    # At first the direction is a multiple of the gradient.
    u, s, vt = np.linalg.svd(np.reshape(gradient["filters"], (4, -1)), False)
    expected = -config.muon_lr * (u * newton_schulz(s) @ vt).reshape(4, 6, 3, 3)
    np.testing.assert_allclose(updates["filters"], expected, atol=1e-8)


def test_what_is_no_filter_moves_as_without_muon():
    parameters = eqx.filter(start().model, eqx.is_inexact_array)
    gradient = random_like(parameters, 1)

    def updates(config):
        # L2, which the filters are spared, would count in the norm that is clipped.
        config = dataclasses.replace(config, weight_decay=0.0)
        optimiser = make_optimiser(config, learning_rate(config, 64))
        return optimiser.update(gradient, optimiser.init(parameters), parameters)[0]

    plain = updates(dataclasses.replace(CONFIG, optimiser="sgd", muon_lr=0.0))
    same = jax.tree.map(jnp.array_equal, updates(CONFIG), plain)
    assert not same.second.weight
    assert sum(map(bool, jax.tree.leaves(same))) == len(jax.tree.leaves(same)) - 1


def test_muon_needs_filters():
    with pytest.raises(UsageError, match="muon' needs a convolution"):
        initialise(*small_net(), CONFIG, 64)


def test_l2_leaves_out_what_is_rescaled():
    found = l2_coefficients(eqx.filter(start().model, eqx.is_array), CONFIG)
    assert (found.first.weight, found.second.weight) == (CONFIG.weight_decay, 0)
    assert (found.linear.weight, found.linear.bias) == (CONFIG.weight_decay,) * 2


@pytest.fixture(scope="module")
def trained():
    return train()


def test_muon_is_the_same_on_any_devices(trained):
    many = train(devices=8).model
    for a, b in zip(arrays(many), arrays(trained.model), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_run_with_muon_goes_on_from_its_checkpoint_to_the_same_bits(
    trained, tmp_path
):
    asked = iter([False, False, True])
    with pytest.raises(Interrupted) as stopped:
        train(should_stop=asked.__next__)
    path = tmp_path / "last.safetensors"
    runs.save_checkpoint(path, stopped.value.train_state, CONFIG, small_dataset())
    resumed, _ = runs.load_checkpoint(path, start(seed=1))
    end, _ = fit(resumed, small_dataset(), CONFIG, mesh=make_mesh(1))
    for a, b in zip(arrays(end), arrays(trained), strict=True):
        np.testing.assert_array_equal(a, b)
