"""Where tr H = tr GGN is claimed, against dense Hessians in float64."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqcifar import sharpness
from eqcifar.errors import UsageError

from .sharpness_tools import UnitLogits, close, data, network

KEY = jax.random.key(3)


class Net(eqx.Module):
    """Any function of a dictionary of arrays and a row of numbers."""

    arrays: dict[str, Any]
    function: Callable = eqx.field(static=True)

    def __call__(self, x, state, *, key=None):
        return self.function(self.arrays, jnp.ravel(x)[:12]), state


def make(function, shapes, scale=1.0):
    rng = np.random.default_rng(0)
    arrays = {
        name: jnp.asarray(scale * rng.normal(size=shape) / shape[-1] ** 0.5)
        for name, shape in shapes.items()
    }
    model = Net(arrays, function)
    return sharpness.Network(model, eqx.nn.State(model))


def blocks(net, examples, loss="ce"):
    """The diagonal of the dense Hessian of the mean loss."""
    flat, unravel = ravel_pytree(net.params)
    loss = sharpness.get_loss(loss)

    @jax.jit
    def mean(theta, images, labels):
        return jnp.mean(jax.vmap(loss)(net(unravel(theta), images), labels))

    hessian = jax.jit(jax.hessian(mean))
    matrix = hessian(flat, jnp.asarray(examples.images), jnp.asarray(examples.labels))
    return np.diag(np.asarray(matrix))


def two_layers(activation):
    return lambda a, x: a["two"] @ activation(a["one"] @ x)


def branches(a, x):
    return a["two"] @ (jax.nn.relu(a["one"] @ x) * (a["gate"] @ x))


def one_array_on_two_inputs(a, x):
    return a["two"] @ (jax.nn.relu(a["one"] @ x) * jax.nn.relu(a["one"] @ x[::-1]))


def attention(a, x):
    tokens = x.reshape(3, 4)
    scores = jax.nn.softmax((tokens @ a["query"]) @ (tokens @ a["keys"]).T)
    return a["two"] @ (scores @ (tokens @ a["values"])).mean(0)


def prelu(a, x):
    x = a["one"] @ x
    return a["two"] @ jnp.where(x >= 0, x, a["slope"] * x)


def twice(a, x):
    x = jax.nn.relu(a["one"] @ x)
    return a["two"] @ jax.nn.relu(a["square"] @ jax.nn.relu(a["square"] @ x))


def pooled(a, x):
    x = (a["one"] @ x).reshape(1, 2, 4)
    x = eqx.nn.MaxPool2d(2, 2)(x)
    x = jnp.concatenate([x.ravel(), jnp.max(x, axis=2).ravel(), jnp.sort(x).ravel()])
    return a["two"] @ x


def tied(a, x):
    x = jnp.concatenate([a["one"] @ x] * 2)  # of each pair, both are the largest
    x = jnp.maximum(x.reshape(2, 8)[0], x.reshape(2, 8)[1])
    return a["two"] @ jnp.max(jax.nn.relu(x.reshape(2, 4)), axis=0)


TWO = {"one": (8, 12), "two": (3, 8)}
PIECEWISE = {
    "linear": (lambda a, x: a["two"] @ (a["one"] @ x), TWO),
    "relu": (two_layers(jax.nn.relu), TWO),
    "leaky relu": (two_layers(jax.nn.leaky_relu), TWO),
    "relu6": (two_layers(jax.nn.relu6), TWO),
    "hard tanh": (two_layers(jax.nn.hard_tanh), TWO),
    "abs": (two_layers(jnp.abs), TWO),
    "rounded": (two_layers(lambda x: x * jnp.round(x)), TWO),
    "checkpoint": (two_layers(jax.checkpoint(jax.nn.relu)), TWO),
    "prelu": (prelu, TWO | {"slope": (8,)}),
    "branches": (branches, TWO | {"gate": (8, 12)}),
    "max pooling": (pooled, {"one": (8, 12), "two": (3, 5)}),
    "ties": (tied, {"one": (8, 12), "two": (3, 4)}),
}


@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_linear_networks_are_exact(x64, name):
    function, shapes = PIECEWISE[name]
    net, examples = make(function, shapes), data(8)
    # On ReLU's kink, and on that of all others: an image without light.
    examples.images[0] = 0
    found = sharpness.hessian_trace(net, examples, "ce", key=KEY)
    assert found.method == "exact"
    assert found.curved == ()
    close(found.hess.value, blocks(net, examples).sum(), 1e-12)
    assert found.hess.standard_error == 0


CURVED = {
    "gelu": (two_layers(jax.nn.gelu), TWO, {"one"}),
    "silu": (two_layers(jax.nn.silu), TWO, {"one"}),
    "hard swish": (two_layers(jax.nn.hard_swish), TWO, {"one"}),
    "softmax": (two_layers(jax.nn.softmax), TWO, {"one"}),
    "standardised": (two_layers(jax.nn.standardize), TWO, {"one"}),
    "two inputs": (one_array_on_two_inputs, TWO, {"one"}),
    "twice": (twice, TWO | {"square": (8, 8)}, {"square"}),
    "attention": (
        attention,
        {"query": (4, 4), "keys": (4, 4), "values": (4, 4), "two": (3, 4)},
        {"query", "keys"},
    ),
}


@pytest.mark.parametrize("name", CURVED)
def test_others_are_corrected_in_the_arrays_that_are_named(x64, name):
    function, shapes, curved = CURVED[name]
    net, examples = make(function, shapes), data(8)
    found = sharpness.hessian_trace(net, examples, "ce", residual_probes=200, key=KEY)
    assert found.method == "control"
    assert {leaf.removeprefix("arrays.") for leaf in found.curved} == curved
    diagonal = blocks(net, examples)
    error = abs(found.hess.value - diagonal.sum())
    assert error < 4 * found.hess.standard_error
    # Of the arrays that are not named, the GGN has the diagonal.
    assert found.outputs is not None
    shares = found.outputs.per_leaf()
    ends = np.cumsum([leaf.size for leaf in jax.tree.leaves(net.params)])[:-1]
    truth = [part.sum() for part in np.split(diagonal, ends)]
    for leaf, part in zip(net.leaves, truth, strict=True):
        near = np.isclose(shares[leaf].value, part, rtol=1e-9)
        assert near != (leaf in found.curved)


def steep(activation):
    def function(a, x):
        slope = 10.0 ** a["power"].astype(x.dtype)
        return a["two"] @ (activation(slope * (a["one"] @ x)) / slope)

    return function


@pytest.mark.parametrize("activation", [jax.nn.gelu, jax.nn.silu, jax.nn.softplus])
def test_no_steepness_and_no_scale_hides_a_curve(x64, activation):
    for power in (0, 2, 4, 6):
        for scale in (1e-3, 1.0, 1e3):
            model = Net({"power": jnp.asarray(power)}, steep(activation))
            weights = make(None, TWO, scale).params.arrays
            model = eqx.tree_at(lambda m: m.arrays, model, model.arrays | weights)
            net = sharpness.Network(model, eqx.nn.State(model))
            images = jnp.asarray(scale * data(2).images)
            assert sharpness.curved_leaves(net, images) == ("arrays.one",)


def test_one_image_near_a_steep_bend_counts(x64):
    function = two_layers(lambda x: jax.nn.softplus(1e4 * x) / 1e4)
    net, examples = make(function, TWO), data(400, batch_size=50)
    # A unit of one image sits in the bend: without it the residual is next to 0.
    first = np.asarray(net.params.arrays["one"])[0]
    row = examples.images[7].reshape(-1)[:12]
    row -= first * (row @ first) / (first @ first)
    truth = blocks(net, examples).sum()
    found = sharpness.hessian_trace(
        net, examples, "ce", residual_probes=50, key=jax.random.key(0)
    )
    assert found.method == "control"
    assert abs(truth - found.ggn.value) > 0.2 * found.ggn.value
    assert abs(found.hess.value - truth) < 4 * found.hess.standard_error
    assert found.hess.standard_error < 0.25 * abs(truth - found.ggn.value)


def test_what_is_curved_is_said():
    net = network("gelu")
    with pytest.raises(UsageError, match=r"curved in layers\.0\.weight .* 4 of 6"):
        sharpness.hessian_trace(net, data(2), "ce", method="exact", key=KEY)
    net = network("vgg", batch_statistics=True)
    found = sharpness.curved_leaves(net, jnp.asarray(data(2).images))
    assert "stages.0.0.0.weight" in found
    assert "classifier.weight" not in found
    net = network("relu")
    model = eqx.combine(net.params, net.static)
    net = sharpness.Network(UnitLogits(model), net.state)
    found = sharpness.curved_leaves(net, jnp.asarray(data(2).images))
    assert found == net.leaves
