"""Options that came after the original's recipe, each against a closed form."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import models, runs, training
from eqcifar.data import augment, normalise
from eqcifar.errors import UsageError
from eqcifar.parallel import make_mesh
from eqcifar.training import (
    Interrupted,
    TrainConfig,
    fit,
    initialise,
    l2_coefficients,
)
from eqcifar.training._augmentations import Keys
from eqcifar.training._batch import Epoch, alternating_flip, make_batch
from eqcifar.training._recipe import make_recipe
from eqcifar.training._schedules import learning_rate

from .helpers import random_network, small_dataset, small_net

CONFIG = TrainConfig(epochs=2, batch_size=16, lr=0.5, eval_every=2)


def start(config, dataset=None, **kwargs):
    images = (small_dataset() if dataset is None else dataset).train.images
    return initialise(*small_net(**kwargs), config, len(images), images=images)


def run(config=CONFIG, devices=1, **kwargs):
    return fit(
        start(config), small_dataset(), config, mesh=make_mesh(devices), **kwargs
    )


def numbers(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_equal(a, b, rtol=0.0):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        scale = max(np.abs(y).max(), 1e-3)
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * scale)


def test_alternating_flips_show_each_image_from_both_sides_in_two_epochs():
    key, examples = jax.random.key(3), jnp.arange(2000, dtype=jnp.int32)
    first, second, third = (
        np.asarray(alternating_flip(key, examples, jnp.asarray(epoch)))
        for epoch in range(3)
    )
    assert (first != second).all()
    assert (first == third).all()
    # Binomial: six standard deviations around a half.
    assert abs(first.sum() - 1000) < 6 * math.sqrt(2000) / 2
    # A property of the example, wherever it is in a batch.
    moved = alternating_flip(key, examples[::-1], jnp.asarray(0))
    assert (np.asarray(moved)[::-1] == first).all()


def test_flips_that_are_given_mirror_just_these_images():
    images = jnp.asarray(small_dataset().train.images)
    key, flip = jax.random.key(0), jnp.arange(64) % 3 == 0
    plain = np.asarray(augment(key, images, jnp.zeros(64, bool)))
    found = np.asarray(augment(key, images, flip))
    expected = np.where(flip[:, None, None, None], plain[:, :, ::-1], plain)
    np.testing.assert_array_equal(found, expected)
    assert (plain != plain[:, :, ::-1]).any()


def test_the_linear_schedule_is_a_triangle():
    config = TrainConfig(
        epochs=10, batch_size=10, lr=0.8, warmup=0.25, schedule="linear"
    )
    schedule = learning_rate(config, 100)
    steps = np.arange(101)
    expected = np.where(steps < 25, steps / 25, (100 - steps) / 75) * 0.8
    np.testing.assert_allclose([float(schedule(s)) for s in steps], expected, atol=1e-7)
    flat_start = dataclasses.replace(config, warmup=0.0)
    assert float(learning_rate(flat_start, 100)(0)) == pytest.approx(0.8)
    assert float(learning_rate(flat_start, 100)(50)) == pytest.approx(0.4)


def test_without_decay_of_biases_only_weights_have_an_l2_gradient(x64):
    config = TrainConfig(
        epochs=1, batch_size=64, lr=0.5, warmup=0.0, clip_norm=0.0, momentum=0.0
    )
    moved = [
        run(dataclasses.replace(config, weight_decay=decay, decay_bias=bias))[0].model
        for decay, bias in ((0.0, True), (0.01, True), (0.01, False))
    ]
    none, everywhere, weights = (eqx.filter(m, eqx.is_inexact_array) for m in moved)
    before = eqx.filter(start(config).model, eqx.is_inexact_array)
    # One step of Nesterov at momentum 0 moves by the learning rate times the gradient.
    for a, b, c, p in zip(
        *map(numbers, (none, everywhere, weights, before)), strict=True
    ):
        l2 = 0.5 * 0.01 * p
        np.testing.assert_allclose(a - b, l2, atol=1e-14)
        np.testing.assert_allclose(a - c, l2 if p.ndim > 1 else 0 * p, atol=1e-14)


def test_cutout_takes_squares_from_what_is_otherwise_the_same():
    split = small_dataset().train
    chosen = jnp.arange(len(split), dtype=jnp.int32)
    arrays = jnp.asarray(split.images), jnp.asarray(split.labels)
    epoch = Epoch(*arrays, chosen, jax.random.key(0), 4)

    def batch(config):
        keys = Keys(jax.random.key(1), jax.random.key(2))
        recipe = make_recipe(config, len(chosen))
        inputs, _ = make_batch(
            epoch, chosen, recipe, jnp.dtype("float32"), flip=None, keys=keys
        )
        return np.asarray(inputs)

    plain, cut = batch(CONFIG), batch(dataclasses.replace(CONFIG, cutout=3))
    taken = (cut != plain).any(1)
    np.testing.assert_array_equal(cut, np.where(taken[:, None], 0, plain))
    # At a corner, at least 2x2 of the 3x3 are within.
    assert 4 <= taken.sum((1, 2)).min() < taken.sum((1, 2)).max() == 9
    still = batch(dataclasses.replace(CONFIG, cutout=3, augment=False))
    pixels = np.asarray(normalise(epoch.images, CONFIG.mean, CONFIG.std))
    np.testing.assert_array_equal(still, np.where(taken[:, None], 0, pixels))


def test_a_bias_of_any_shape_is_no_weight():
    layer = eqx.nn.Conv2d(3, 4, 1, key=jax.random.key(0))
    assert layer.bias is not None
    assert layer.bias.shape == (4, 1, 1)
    layers = {"one": layer, "many": [layer.weight], "norm": small_net()[0].norm}
    parameters = eqx.filter(layers, eqx.is_inexact_array)
    config = TrainConfig(weight_decay=0.3, bn_bias_lr=2.0)
    found = l2_coefficients(parameters, config)
    assert (found["one"].weight, found["one"].bias, found["many"]) == (0.3, 0.3, [0.3])
    assert (found["norm"].weight, found["norm"].bias) == (0.3, 0.15)
    config = dataclasses.replace(config, decay_bias=False)
    found = l2_coefficients(parameters, config)
    assert (found["one"].weight, found["one"].bias, found["many"]) == (0.3, 0, [0.3])
    assert (found["norm"].weight, found["norm"].bias) == (0, 0)


def test_biases_of_batch_norm_learn_faster_with_the_same_l2(x64):
    config = TrainConfig(
        epochs=1, batch_size=64, lr=0.5, warmup=0.0, clip_norm=0.0, momentum=0.0
    )
    before = eqx.tree_at(lambda s: s.model.norm.bias, start(config), jnp.full(6, 0.3))

    def moved(**options):
        begin = jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, before)
        end = fit(begin, small_dataset(), dataclasses.replace(config, **options))[0]
        return eqx.filter(end.model, eqx.is_inexact_array)

    plain, quick = moved(weight_decay=0.0), moved(weight_decay=0.01, bn_bias_lr=64.0)
    start_of = eqx.filter(before.model, eqx.is_inexact_array)
    factors = eqx.tree_at(
        lambda model: model.norm.bias, jax.tree.map(lambda _: 1.0, plain), 64.0
    )
    for a, b, p, factor in zip(
        *map(numbers, (plain, quick, start_of, factors)), strict=True
    ):
        expected = p + factor * (a - p) - 0.5 * 0.01 * p
        np.testing.assert_allclose(b, expected, rtol=1e-12, atol=1e-14)


def test_the_network_is_the_moving_average_of_the_raw_weights(x64):
    plain = dataclasses.replace(CONFIG, epochs=1)
    config = dataclasses.replace(plain, ema=0.2)
    average = new = network(start(config))
    for t in range(4):
        kept = min(0.2, (1 + t) / (10 + t))
        new = network(after(t + 1, plain))
        average = jax.tree.map(lambda a, b, d=kept: d * a + (1 - d) * b, average, new)
    averaged = after(4, config)
    assert_equal(network(averaged), average, 1e-12)
    assert_equal(eqx.filter(averaged.raw, eqx.is_array), new, 1e-12)


def network(train_state):
    return eqx.filter((train_state.model, train_state.state), eqx.is_array)


def after(steps, config):
    """The state after some steps of the only epoch."""
    if steps == 4:
        return run(config)[0]
    asked = iter([False] * steps + [True])
    with pytest.raises(Interrupted) as stopped:
        run(config, should_stop=asked.__next__)
    return stopped.value.train_state


def test_an_averaged_run_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path):
    config = dataclasses.replace(
        CONFIG, ema=0.9, flip="alternating", whiten=True, test_flip=True
    )
    dataset = small_dataset()
    whole, rows = run(config)
    asked = iter([False] * 6 + [True])
    with pytest.raises(Interrupted) as stopped:
        run(config, should_stop=asked.__next__)
    path = tmp_path / "last.safetensors"
    runs.save_checkpoint(path, stopped.value.train_state, config, dataset)
    resumed, header = runs.load_checkpoint(path, start(config, seed=1))
    end, rest = fit(resumed, dataset, config, mesh=make_mesh(1))
    assert_equal(end, whole)
    assert rest[-1]["loss_te"] == rows[-1]["loss_te"]
    # What is evaluated from the file is what the log measured, not the raw weights.
    runs.save_checkpoint(path, end, config, dataset)
    loaded = runs.load_model(path, small_net(seed=2))
    logits = training.predict(loaded.model, loaded.state, dataset.test.images, config)
    accuracy = (logits.argmax(1) == dataset.test.labels).mean()
    assert rows[-1]["acc_te"] == accuracy
    assert header["step"] == 6
    assert end.raw is not None
    raw, averaged = (np.asarray(m.conv.weight) for m in (end.raw[0], end.model))
    assert np.abs(raw - averaged).max() > 0


def test_test_time_flips_are_the_mean_of_the_logits_of_both_sides(x64):
    model, state = small_net()
    images = small_dataset(test=10).test.images
    plain, both = TrainConfig(), TrainConfig(test_flip=True)
    seen, mirrored = (
        training.predict(model, state, x, plain) for x in (images, images[:, :, ::-1])
    )
    assert np.abs(seen - mirrored).max() > 1e-3
    found = training.predict(model, state, images, both)
    np.testing.assert_allclose(found, (seen + mirrored) / 2, rtol=1e-13)


def test_test_time_crops_weigh_the_image_as_much_as_two_that_are_moved(x64):
    model, state = small_net()
    images = small_dataset(test=10).test.images
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = padded[:, :-2, :-2], padded[:, 2:, 2:]
    for flip in (False, True):
        config = TrainConfig(test_flip=flip)
        seen, left, right = (
            training.predict(model, state, x, config) for x in (images, *moved)
        )
        assert np.abs(left - right).max() > 1e-3
        config = dataclasses.replace(config, test_crop=True)
        found = training.predict(model, state, images, config)
        np.testing.assert_allclose(found, seen / 2 + (left + right) / 4, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "width", "channels"),
    [
        ("resnet20", 4.0, 64),
        ("vgg11", 1 / 4, 16),
        ("wrn10-1", 7 / 16, 7),
        ("airbench94", 1 / 16, 24),
    ],
)
def test_the_first_convolution_whitens_patches(x64, name, width, channels):
    rng = np.random.default_rng(0)
    model = random_network(models.create, name, width=width).model
    smooth = rng.normal(size=(30, 3, 12, 12)).cumsum(2).cumsum(3)
    images = np.einsum("ij,njhw->nihw", rng.normal(size=(3, 3)), smooth)
    before, after = map(kernels, (model, models.whiten(model, images, eps=0.0)))
    stem = after[0]
    pairs = min(math.prod(stem.shape[1:]), channels // 2)
    assert len(stem) == channels
    np.testing.assert_array_equal(stem[pairs : 2 * pairs], -stem[:pairs])
    np.testing.assert_array_equal(stem[2 * pairs :], before[0][2 * pairs :])
    for a, b in zip(after[1:], before[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    # Without padding, what the network computes of these images is white.
    outputs = jax.lax.conv(jnp.asarray(images), stem[:pairs], (1, 1), "VALID")
    covariance = np.cov(np.moveaxis(np.asarray(outputs), 1, 0).reshape(pairs, -1))
    np.testing.assert_allclose(covariance, np.eye(pairs), atol=1e-3)


def kernels(model):
    return [x for x in jax.tree.leaves(model) if eqx.is_array(x) and x.ndim == 4]


def test_whitening_needs_images_and_a_convolution():
    config = dataclasses.replace(CONFIG, whiten=True)
    with pytest.raises(UsageError, match="needs the training images"):
        initialise(*small_net(), config, 64)
    linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    with pytest.raises(UsageError, match="no first convolution to whiten"):
        models.whiten(linear, np.zeros((1, 3, 8, 8)))


def test_whitening_is_the_same_in_each_run_and_on_any_devices():
    config = dataclasses.replace(CONFIG, epochs=1, whiten=True, batch_size=64)
    one, eight = run(config, 1)[0], run(config, 8)[0]
    assert_equal(start(config).model, start(config).model)
    assert_equal(eight, one, 1e-5)
