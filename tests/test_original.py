"""The original's networks and recipe against plain ones, written from a description.

Of sungyubkim/cifar_jax: loops over blocks and groups, convolutions as sums over taps,
in float64; nothing of the package but the numbers that it starts from.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import models, parallel, training
from eqcifar.config import TrainConfig
from eqcifar.data import Dataset, Split
from eqcifar.errors import UsageError
from eqcifar.models import Conv2d, lecun_normal
from eqcifar.recipes import recipe_options
from eqcifar.training._step import epoch_order, random_stream

from .helpers import random_network

KEY = jax.random.key(0)
CLASSES, GROUP, EPS, MOMENTUM = 10, 5, 1e-5, 0.9
# The compiler's optimisation takes longer than the rest of a test.
QUICKLY_COMPILED = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def convolve(x, weight, stride=1):
    """Of images NHWC, padded with zeros as TensorFlow's "SAME" does."""
    kernel = weight.shape[-1]
    pads = []
    for side in x.shape[1:3]:
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        pads.append((total // 2, total - total // 2))
    height, width = (math.ceil(side / stride) for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    y = 0.0
    for i in range(kernel):
        for j in range(kernel):
            rows = slice(i, i + (height - 1) * stride + 1, stride)
            columns = slice(j, j + (width - 1) * stride + 1, stride)
            y = y + x[:, rows, columns] @ weight[:, :, i, j].T
    return y


class Plain:
    """Takes parameters in the order in which the network applies them."""

    def __init__(self, leaves):
        self.leaves, self.seen = iter(leaves), []

    def normalise(self, x):
        scale, shift = next(self.leaves), next(self.leaves)
        axes = tuple(range(x.ndim - 1))
        mean, var = x.mean(axes), x.var(axes)
        self.seen += [mean, var]
        return (x - mean) / jnp.sqrt(var + EPS) * scale + shift

    def resnet(self, x, depths):
        x = relu(self.normalise(convolve(x, next(self.leaves))))
        for stage, depth in enumerate(depths):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                y = relu(self.normalise(convolve(x, next(self.leaves))))
                y = self.normalise(convolve(y, next(self.leaves), stride))
                if x.shape != y.shape:
                    corners = [
                        x[:, i::stride, j::stride]
                        for i in range(stride)
                        for j in range(stride)
                    ]
                    x = sum(corners) / len(corners)
                    x = self.normalise(convolve(x, next(self.leaves)))
                x = relu(x + y)
        return x.mean((1, 2)) @ next(self.leaves).T + next(self.leaves)


def relu(x):
    return jnp.maximum(x, 0)


# The smallest with every kind of block: neither stride nor shortcut, both, a shortcut.
SMALL = {"depths": (2, 1), "channels": (4, 6), "stem": 2}


def make_small(*, key):
    make = eqx.nn.make_with_state(models.ResNet)
    return make(CLASSES, block="late-stride", shortcut="pooled", **SMALL, key=key)


def in_order(model):
    """The parameters as a forward pass meets them: shortcuts last in their blocks."""
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


@pytest.mark.slow
def test_two_steps_are_those_of_the_original(x64, monkeypatch):
    """The first has a learning rate of 0, and moves velocity and statistics."""
    monkeypatch.setattr(parallel, "_CPU_OPTIONS", QUICKLY_COMPILED)
    batch = 4 * GROUP
    groups = {"bn_group": GROUP, "mixup_group": GROUP}
    own = {"augment": False, "mixup": 0.4}
    size = {"batch_size": batch, "epochs": 20, "seed": 3, "clip_norm": 2.0}
    config = TrainConfig(**{**recipe_options("original"), **groups, **own, **size})
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * batch, 8, 8, 3), np.uint8)
    labels = rng.integers(0, CLASSES, 2 * batch).astype(np.int32)
    split = Split(images, labels)
    names = tuple(map(str, range(CLASSES)))
    dataset = Dataset("noise", names, split, split, None, False)
    drawn = random_network(make_small)
    parameters, kept = in_order(drawn.model), jax.tree.leaves(drawn.state)
    start = training.initialise(drawn.model, drawn.state, config, len(labels))

    stop = iter((False, False, True))
    with pytest.raises(training.Interrupted) as stopped:
        training.fit(
            start,
            dataset,
            config,
            mesh=parallel.make_mesh(1),
            should_stop=lambda: next(stop),
            steps_per_call=1,
        )
    ours = stopped.value.train_state
    assert int(ours.step) == 2

    def objective(parameters, inputs, targets):
        def group(inputs):
            plain = Plain(parameters)
            logits = plain.resnet(inputs, SMALL["depths"])
            assert next(plain.leaves, None) is None
            return logits, plain.seen

        groups = inputs.reshape(-1, GROUP, *inputs.shape[1:])
        logits, seen = jax.vmap(group)(groups)
        error = logits.reshape(targets.shape) - targets
        penalty = sum(jnp.sum(each**2) for each in parameters)
        loss = 0.5 * jnp.sum(error**2) / batch + 5e-4 / 2 * penalty
        return loss, [each.mean(0) for each in seen]

    gradient = jax.jit(
        jax.grad(objective, has_aux=True), compiler_options=QUICKLY_COMPILED
    )
    order = np.asarray(epoch_order(jax.random.key(3), jnp.int32(0), len(labels)))
    velocity = [jnp.zeros_like(each) for each in parameters]
    for step in range(2):
        key = jax.random.fold_in(random_stream(3, "step"), step)
        key = jax.random.split(key, 3)[1]
        weight = np.asarray(jax.random.beta(key, 0.4, 0.4, (GROUP,), jnp.float32))
        weight = np.maximum(weight, 1 - weight).astype(float)
        chosen = order[step * batch : (step + 1) * batch]
        inputs = (images[chosen] / 255 - 0.5) / 0.25
        targets = np.eye(CLASSES)[labels[chosen]]
        mixed_inputs, mixed_targets = inputs.copy(), targets.copy()
        for i in range(batch):
            place = i % GROUP
            partner = i - place + GROUP - 1 - place
            for mixed, values in ((mixed_inputs, inputs), (mixed_targets, targets)):
                w = weight[place]
                mixed[i] = w * values[i] + (1 - w) * values[partner]
        grads, seen = gradient(parameters, mixed_inputs, mixed_targets)
        norm = math.sqrt(sum(float(jnp.sum(each**2)) for each in grads))
        assert norm > 2.0
        # 40 steps, of which the first tenth is warm-up from 0 to 0.8.
        rate = 0.8 * step / 4
        for i, each in enumerate(grads):
            each = each * 2.0 / norm
            velocity[i] = 0.9 * velocity[i] + each
            parameters[i] = parameters[i] - rate * (0.9 * velocity[i] + each)
        kept = [
            MOMENTUM * old + (1 - MOMENTUM) * new
            for old, new in zip(kept, seen, strict=True)
        ]

    for found, expected in (
        (in_order(ours.model), parameters),
        (jax.tree.leaves(ours.state), kept),
    ):
        for a, b in zip(found, expected, strict=True):
            # The learning rate is a float32.
            scale = float(jnp.abs(b).max())
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-7 * scale)


@pytest.mark.parametrize(
    ("arch", "depths", "channels", "stem", "parameters"),
    [
        ("original-resnet18", (2, 2, 2, 2), (64, 128, 256, 512), 64, 11_173_962),
        ("original-wrn28-10", (4, 4, 4), (160, 320, 640), 16, 36_481_434),
    ],
)
def test_networks_have_the_arrays_and_products_of_the_original(
    arch, depths, channels, stem, parameters
):
    shapes, products, size, before = [], 0, 32, stem

    def convolution(before, after, kernel, out_size):
        nonlocal products
        products += before * after * kernel**2 * out_size**2
        shapes.extend([(after, before, kernel, kernel), (after,), (after,)])

    convolution(3, stem, 3, size)
    for stage, (depth, after) in enumerate(zip(depths, channels, strict=True)):
        for block in range(depth):
            halved = size // 2 if stage > 0 and block == 0 else size
            convolution(before, after, 3, size)
            convolution(after, after, 3, halved)
            if (before, size) != (after, halved):
                convolution(before, after, 1, halved)
            before, size = after, halved
    shapes += [(CLASSES, before), (CLASSES,)]
    model, state = eqx.filter_eval_shape(models.create, arch, CLASSES, key=KEY)
    found = [x.shape for x in jax.tree.leaves(model) if hasattr(x, "shape")]
    assert found == shapes
    assert sum(map(math.prod, shapes)) == parameters
    total = products + CLASSES * before
    assert models.count_multiply_adds(model, state) == total


def test_the_recipe_is_all_that_the_original_does_otherwise():
    config = TrainConfig.from_dict(recipe_options("original"))
    assert (config.arch, config.init) == ("original-resnet18", "lecun")
    # One of 8 devices has 125 images.
    assert config.bn_group == config.mixup_group == config.batch_size // 8
    assert recipe_options("default") == {}


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [
        (lambda: Conv2d(64, 48, 3, use_bias=True, key=KEY), 9 * 64),
        (lambda: eqx.nn.Conv2d(64, 48, 3, key=KEY), 9 * 64),
        (lambda: eqx.nn.Linear(256, 128, key=KEY), 256),
    ],
)
def test_lecun_normal_is_truncated_with_variance_1_over_fan_in(make, fan_in):
    layer = make()
    drawn = lecun_normal(layer, key=KEY)
    weight = np.asarray(drawn.weight) * math.sqrt(fan_in)
    assert weight.var() == pytest.approx(1, rel=0.03)
    # Of a normal distribution truncated at 2, whose standard deviation is 0.8796.
    assert 2.2 < np.abs(weight).max() <= 2 / 0.8796
    np.testing.assert_array_equal(drawn.bias, layer.bias)


def test_layers_of_one_shape_start_apart():
    model, _ = make_small(key=KEY)
    kernels = [x for x in in_order(lecun_normal(model, key=KEY)) if x.ndim > 1]
    assert len({np.asarray(x).tobytes() for x in kernels}) == len(kernels)


def test_what_cannot_be_made_is_answered():
    shapes = eqx.filter_eval_shape(models.create, "original-resnet18", key=KEY)
    with pytest.raises(UsageError, match="halved in each stage"):
        models.count_multiply_adds(*shapes, image_size=20)
