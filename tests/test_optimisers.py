"""Optimisers and schedules against NumPy, by name and of one's own."""

import dataclasses
import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eqcifar import runs, training
from eqcifar.config import PARTS
from eqcifar.errors import UsageError
from eqcifar.losses import LOSSES
from eqcifar.models import BatchNorm
from eqcifar.parallel import make_mesh
from eqcifar.training import TrainConfig, fit, initialise, l2_coefficients
from eqcifar.training._optimisers import gradient_norm, make_optimiser
from eqcifar.training._schedules import learning_rate

from .helpers import small_dataset, small_net

CONFIG = TrainConfig(epochs=2, batch_size=16, lr=0.1, eval_every=2)


def rate(step):
    return 0.1 / (1 + jnp.asarray(step, float))


class Parameters(eqx.Module):
    """What an optimiser may treat in three ways."""

    weight: jax.Array
    bias: jax.Array
    norm: BatchNorm


def trajectory(config, steps=4):
    """Parameters and gradients, step by step, in float64."""
    rng = np.random.default_rng(0)
    like, _ = eqx.nn.make_with_state(
        lambda: Parameters(jnp.zeros((3, 2)), jnp.zeros(3), BatchNorm(3))
    )()
    like = eqx.filter(like, eqx.is_inexact_array)

    def draw():
        return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), like)

    parameters: Any = draw()
    optimiser = make_optimiser(config, rate)
    state, seen = optimiser.init(parameters), []
    for _ in range(steps):
        gradient = draw()
        updates, state = optimiser.update(gradient, state, parameters)
        norm = float(gradient_norm(state))
        seen.append((arrays(parameters), arrays(gradient), norm))
        parameters = optax.apply_updates(parameters, updates)
    return seen, arrays(parameters)


def arrays(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same(found, expected, rtol=1e-12):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_clips_gradients_with_l2_and_keeps_momentum(x64, momentum, nesterov):
    config = TrainConfig(
        momentum=momentum, nesterov=nesterov, weight_decay=0.1, clip_norm=2.0
    )
    seen, end = trajectory(config)
    values, velocity = seen[0][0], [0.0] * 4
    for t, (_, gradients, norm) in enumerate(seen):
        g = [g + 0.1 * p for g, p in zip(gradients, values, strict=True)]
        length = math.sqrt(sum((x**2).sum() for x in g))
        assert norm == pytest.approx(length, rel=1e-12)
        g = [x * min(1, 2.0 / length) for x in g]
        velocity = [momentum * v + x for v, x in zip(velocity, g, strict=True)]
        steps = (
            [momentum * v + x for v, x in zip(velocity, g, strict=True)]
            if nesterov
            else velocity
        )
        values = [p - 0.1 / (1 + t) * s for p, s in zip(values, steps, strict=True)]
    assert_same(end, values)


@pytest.mark.parametrize("decay_bias", [True, False])
def test_adamw_decays_beside_the_gradient(x64, decay_bias):
    config = TrainConfig(
        optimiser="adamw",
        momentum=0.8,
        beta2=0.95,
        weight_decay=0.3,
        decay_bias=decay_bias,
        bn_bias_lr=4.0,
        clip_norm=0.0,
    )
    seen, end = trajectory(config)
    # The weight, its bias, and BatchNorm's weight and bias, whose rate is quadrupled.
    factors = 1.0, 1.0, 1.0, 4.0
    decays = (0.3,) * 4 if decay_bias else (0.3, 0.0, 0.0, 0.0)
    values = seen[0][0]
    m, v = [0.0] * 4, [0.0] * 4
    for t, (_, gradients, norm) in enumerate(seen):
        length = math.sqrt(sum((x**2).sum() for x in gradients))
        assert norm == pytest.approx(length, rel=1e-12)
        for k, g in enumerate(gradients):
            m[k] = 0.8 * m[k] + 0.2 * g
            v[k] = 0.95 * v[k] + 0.05 * g**2
            mean, square = m[k] / (1 - 0.8 ** (t + 1)), v[k] / (1 - 0.95 ** (t + 1))
            step = factors[k] * mean / (np.sqrt(square) + 1e-8) + decays[k] * values[k]
            values = [*values[:k], values[k] - 0.1 / (1 + t) * step, *values[k + 1 :]]
    assert_same(end, values, 1e-6)


def test_decoupled_decay_is_no_part_of_the_loss():
    parameters = eqx.filter(small_net()[0], eqx.is_inexact_array)
    of = {
        name: set(
            jax.tree.leaves(
                l2_coefficients(parameters, dataclasses.replace(CONFIG, optimiser=name))
            )
        )
        for name in ("sgd", "adamw", "optax.chain")
    }
    assert of == {"sgd": {5e-4}, "adamw": {0.0}, "optax.chain": {0.0}}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", lambda t: 1.0),
        ("step", lambda t: 1.0 if t < 50 else 0.1 if t < 75 else 0.01),
        ("wsd", lambda t: 1.0 if t < 80 else (100 - t) / 20),
        ("linear", lambda t: (100 - t) / 80),
        ("cosine", lambda t: (1 + math.cos(math.pi * (t - 20) / 80)) / 2),
    ],
)
def test_schedules_rise_for_the_warm_up_and_then_take_their_form(name, expected):
    config = TrainConfig(epochs=10, batch_size=10, lr=0.8, warmup=0.2, schedule=name)
    schedule = learning_rate(config, 100)
    for t in range(101):
        wanted = 0.8 * (t / 20 if t < 20 else expected(t))
        assert float(schedule(t)) == pytest.approx(wanted, abs=1e-6), t
    at_once = learning_rate(dataclasses.replace(config, warmup=0.0), 100)
    assert float(at_once(0)) == pytest.approx(0.8)


def test_options_know_the_names_of_the_dictionaries():
    found = {
        "loss": LOSSES,
        "optimiser": training.OPTIMISERS,
        "schedule": training.SCHEDULES,
    }
    assert {name: tuple(parts) for name, parts in found.items()} == PARTS
    with pytest.raises(UsageError, match="optimiser = 'lion': must be sgd or muon or"):
        TrainConfig(optimiser="lion")
    with pytest.raises(UsageError, match="muon_lr = 0: must be greater than 0"):
        TrainConfig(optimiser="muon")
    with pytest.raises(UsageError, match=r"muon_lr = 0\.1: must be 0 unless"):
        TrainConfig(muon_lr=0.1)


def run(config=CONFIG, **parts):
    start = initialise(*small_net(), config, 64)
    return fit(start, small_dataset(), config, mesh=make_mesh(1), **parts)


def test_an_optimiser_of_ones_own_gets_the_bare_gradient(x64):
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=64, augment=False)
    plain = dataclasses.replace(
        config, weight_decay=0.0, clip_norm=0.0, momentum=0.0, warmup=0.0, lr=0.3
    )
    wanted, _ = run(plain)
    alone, (row,) = run(config, optimiser=optax.sgd(0.3))
    assert_same(arrays(alone.model), arrays(wanted.model), 1e-5)
    assert math.isnan(row["lr"])
    # With a schedule that multiplies it, and as a function of the schedule.
    one = optax.sgd(1.0)
    scaled, (row,) = run(config, optimiser=one, schedule=lambda step: 0.3)
    assert_same(arrays(scaled.model), arrays(wanted.model), 1e-5)
    assert row["lr"] == pytest.approx(0.3)
    made, (row,) = run(config, optimiser=optax.sgd, schedule=lambda step: 0.3)
    assert_same(arrays(made.model), arrays(wanted.model), 1e-5)
    by_name, _ = run(plain, schedule=lambda step: 0.3)
    assert_same(arrays(by_name.model), arrays(wanted.model), 1e-5)


def test_a_state_of_another_optimiser_is_refused():
    trained, _ = run()
    with pytest.raises(UsageError, match="begun by another optimiser"):
        fit(trained, small_dataset(), CONFIG, optimiser=optax.adam(0.1))


@pytest.mark.parametrize("kind", ["adamw", "finished", "function"])
def test_a_run_with_it_goes_on_to_the_same_bits(tmp_path, kind):
    config, parts = CONFIG, {}
    if kind == "adamw":
        config = dataclasses.replace(config, optimiser="adamw", schedule="wsd")
    elif kind == "finished":
        parts = {"optimiser": optax.adamw(0.01)}
    else:
        lion = functools.partial(optax.lion, weight_decay=0.1)
        parts = {"optimiser": lion, "schedule": rate}

    def train(folder, should_stop=lambda: False, **other):
        return runs.train_run_with(
            tmp_path / folder,
            small_dataset(),
            *small_net(),
            config,
            mesh=make_mesh(1),
            hooks=runs.Hooks(should_stop=should_stop),
            **{**parts, **other},
        )

    whole = train("whole")
    asked = iter([False] * 3 + [True])
    assert train("parts", asked.__next__).status()["state"] == "interrupted"
    assert train("parts").status()["state"] == "done"
    for name in ("model", "last"):
        ends = [
            (tmp_path / folder / f"{name}.safetensors").read_bytes()
            for folder in ("whole", "parts")
        ]
        assert ends[0] == ends[1], name
    names = whole.config()["optimiser"], whole.config()["schedule"]
    adamw = optax.adamw(0.01)
    made_by, lion = runs.part_name(adamw), "optax._src.alias.lion#"
    if kind == "adamw":
        assert names == ("adamw", "wsd")
    elif kind == "finished":
        assert names == (made_by, made_by)
    else:
        assert names[0].startswith(lion)
        assert names[1] == "tests.test_optimisers.rate"
    with pytest.raises(UsageError, match=r"optimiser = .* there, 'optax.* here"):
        train("whole", optimiser=optax.sgd(0.1))


def test_parts_go_by_who_made_them_and_what_they_hold():
    lions = [functools.partial(optax.lion, weight_decay=d) for d in (0.1, 0.2)]
    parts = [
        rate,
        optax.lion,
        *lions,
        optax.adamw(0.1),
        optax.adamw(0.2),
        optax.adamw(optax.linear_schedule(0.1, 0.0, 10)),
        optax.adamw(optax.linear_schedule(0.1, 0.0, 20)),
        optax.sgd(0.1),
        optax.linear_schedule(0.1, 0.0, 10),
    ]
    names = [runs.part_name(part) for part in parts]
    assert names[:2] == ["tests.test_optimisers.rate", "optax._src.alias.lion"]
    assert len(set(names)) == len(names)
    assert runs.part_name(optax.adamw(0.1)) == names[4]


def test_a_name_that_only_python_has_is_refused_before_data_are_read(tmp_path):
    config = dataclasses.replace(CONFIG, optimiser="my.lion", dataset="/nowhere")
    with pytest.raises(UsageError, match=r"'my.lion': only Python has it.*sgd, muon"):
        runs.train_run(config, tmp_path)
