"""Narrow models with weights that numpy can make again, for comparison with PyTorch."""

from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqcifar import models

BATCH = 6

# The smallest with every kind of block: with and without shortcut and stride.
small_resnet = partial(
    models.ResNet,
    10,
    shortcut="projection",
    depths=(2, 1),
    channels=(4, 8),
)


def make_basic(*, key):
    return eqx.nn.make_with_state(small_resnet)(block="basic", key=key)


def make_bottleneck(*, key):
    return eqx.nn.make_with_state(small_resnet)(block="bottleneck", key=key)


# Name: how to make the model, and the size of the images.
CASES = {
    "vgg": (partial(models.create, "vgg", width=1 / 16), 32),
    "vgg11": (partial(models.create, "vgg11", width=1 / 16), 32),
    "resnet20": (partial(models.create, "resnet20", width=1 / 4), 8),
    "basic": (make_basic, 8),
    "bottleneck": (make_bottleneck, 8),
    "wrn16-2": (partial(models.create, "wrn16-2", width=1 / 4), 8),
    "airbench94": (partial(models.create, "airbench94", width=1 / 16), 32),
    "airbench96": (partial(models.create, "airbench96", width=1 / 16), 32),
}


def uniform(seed, shape):
    """Float64 numbers from -1 to 1; numpy promises raw bits, not distributions."""
    raw = np.random.Philox(key=seed).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(11)) * 2.0**-52 - 1).reshape(shape)


def make_weight(index, name, shape):
    """Around 0 with He's variance for kernels and matrices, around 1 for BatchNorm."""
    values = uniform(index, shape)
    if name == "bias":
        return 0.1 * values
    if len(shape) == 1:
        return 1 + 0.3 * values
    return values * np.sqrt(6 / np.prod(shape[1:]))


def make_inputs(case):
    """Weights in the order of the leaves, running statistics, images and labels."""
    make, image_size = CASES[case]
    model, state = eqx.filter_eval_shape(make, key=jax.random.key(0))
    leaves, _ = jax.tree.flatten_with_path(eqx.filter(model, is_float))
    weights = [
        make_weight(i, path[-1].name, leaf.shape)
        for i, (path, leaf) in enumerate(leaves)
    ]
    statistics = [
        uniform(1000 + i, leaf.shape) / 2 + i % 2
        for i, leaf in enumerate(jax.tree.leaves(state))
    ]
    images = 2 * uniform(2000, (BATCH, 3, image_size, image_size))
    return weights, statistics, images, np.arange(BATCH, dtype=np.int32)


@cache
def evaluate(case):
    """Logits and gradients in both modes, and running statistics after a step."""
    weights, statistics, images, labels = make_inputs(case)
    with jax.enable_x64(True):
        model, state = eqx.filter_eval_shape(CASES[case][0], key=jax.random.key(0))
        shapes, static = eqx.partition(model, is_float)
        params = fill(shapes, weights)
        state = fill(state, statistics)
        results = {}
        for mode in ["train", "inference"]:
            fixed = eqx.nn.inference_mode(static, mode == "inference")
            # The compiler's optimisation takes longer than the rest of the test.
            step = jax.jit(
                partial(gradients, fixed),
                compiler_options={
                    "xla_backend_optimization_level": 0,
                    "xla_llvm_disable_expensive_passes": True,
                },
            )
            grads, (logits, new_state) = step(params, state, images, labels)
            results[f"{mode}_logits"] = np.asarray(logits)
            results[f"{mode}_gradients"] = to_numpy(grads)
            if mode == "train":
                results["statistics"] = to_numpy(new_state)
            else:
                unchanged = zip(to_numpy(new_state), statistics, strict=True)
                assert all((a == b).all() for a, b in unchanged)
    return results


def gradients(static, params, state, images, labels):
    def loss(params):
        model = eqx.combine(params, static)
        logits, new_state = jax.vmap(
            model, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
        )(images, state)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -jnp.mean(chosen), (logits, new_state)

    return jax.grad(loss, has_aux=True)(params)


def is_float(leaf):
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def fill(tree, arrays):
    leaves, treedef = jax.tree.flatten(tree)
    for leaf, array in zip(leaves, arrays, strict=True):
        assert leaf.shape == array.shape
    return jax.tree.unflatten(treedef, map(jnp.asarray, arrays))


def to_numpy(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def summarise(results):
    """Few enough numbers to store: of each gradient, its norm and one projection."""
    stored = {
        "train_logits": results["train_logits"],
        "inference_logits": results["inference_logits"],
        "statistics": np.concatenate(results["statistics"]),
    }
    for mode in ["train", "inference"]:
        flat = [g.ravel() for g in results[f"{mode}_gradients"]]
        stored[f"{mode}_gradients"] = np.array(
            [[np.linalg.norm(g), g @ uniform(3000, g.shape)] for g in flat]
        )
    return stored
