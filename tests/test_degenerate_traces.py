"""Degenerate input to the estimators of traces: the right number, or one clear line."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import data as images_of, measurements, sharpness, training
from eqcifar.errors import RunError, UsageError

from .sharpness_tools import close, data, network
from .test_sharpness_curved import TWO, blocks, make

KEY = jax.random.key(1)
ESTIMATORS = [
    sharpness.hutchinson,
    sharpness.frobenius,
    sharpness.hutch_plus_plus,
    sharpness.xtrace,
    sharpness.xnystrace,
]


def net_of(model) -> sharpness.Network:
    return sharpness.Network(model, eqx.nn.State(model))


def exact(net, examples=None):
    """tr H by the dense matrix, if the exact path is taken."""
    examples = data(4) if examples is None else examples
    found = sharpness.hessian_trace(net, examples, "ce", key=KEY)
    assert found.method == "exact"
    close(found.hess.value, blocks(net, examples).sum(), 1e-12)
    return found


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_degenerate_matrices(x64, estimate):
    squared = estimate is sharpness.frobenius

    def of(matrix, count=12):
        matrix = jnp.asarray(matrix)
        apply = sharpness.Operator(lambda v: matrix @ v, len(matrix), matrix.dtype)
        effort = {"probes" if squared else "matvecs": count}
        return estimate(apply, **effort, key=KEY)

    assert of(np.zeros((20, 20))).interval() == (0, 0)
    # Repeated eigenvalues, and a single one.
    same, one = of(3 * np.eye(20)), of(np.ones((20, 20)))
    expected = (9 * 20, 20 * 20) if squared else (3 * 20, 20)
    for found, truth in zip((same, one), expected, strict=True):
        assert abs(found.value - truth) <= 4 * found.standard_error + 1e-9 * truth
    for value in (np.nan, np.inf):
        with pytest.raises(RunError, match="not finite"):
            of(np.full((20, 20), value))
    for count in (0, -1):
        with pytest.raises(UsageError, match="at least"):
            of(np.eye(20), count)


def test_no_probes_are_refused(x64):
    net, examples = network("linear"), data(2)
    with pytest.raises(UsageError, match="at least 1"):
        sharpness.probe_traces(net, examples, "ce", probes=0, key=KEY)
    with pytest.raises(UsageError, match="0 .exact. or more"):
        sharpness.output_traces(net, examples, "ce", probes=-1)


class Constant(eqx.Module):
    weight: jax.Array

    def __call__(self, x, state, *, key=None):
        return 0 * self.weight, state


def test_constant_networks(x64):
    net = net_of(Constant(jnp.ones(3)))
    examples = data(30, batch_size=10)
    assert exact(net).hess.interval() == (0, 0)
    with pytest.raises(UsageError, match="pilot's mean is zero"):
        sharpness.how_many(net, examples, "ce", rtol=0.1, key=KEY)
    with pytest.raises(UsageError, match="trace is zero"):
        sharpness.compare(net, examples, examples, "ce", probes=3, key=KEY)


def test_one_class_and_one_image(x64):
    net = make(lambda a, x: a["one"] @ x, {"one": (1, 12)})
    examples = data(4)
    examples.labels[:] = 0
    assert exact(net, examples).hess.value == 0  # ce of one class is 0
    found = sharpness.output_traces(net, examples, "mse")
    rows = np.asarray(examples.images).reshape(4, -1)[:, :12]
    close(found.estimate().value, (rows**2).sum(1).mean())
    found = exact(network("relu"), data(1))
    assert found.hess.standard_error == 0
    found = sharpness.hessian_trace(
        network("gelu"), data(1), "ce", residual_probes=100, key=KEY
    )
    truth = blocks(network("gelu"), data(1)).sum()
    assert abs(found.hess.value - truth) < 5 * found.hess.standard_error


class Odd(eqx.Module):
    """A scalar, integers, booleans, and a frozen array beside a layer."""

    layer: eqx.nn.Linear
    scale: jax.Array
    frozen: jax.Array
    order: jax.Array
    mask: jax.Array

    def __call__(self, x, state, *, key=None):
        x = jnp.where(self.mask, self.layer(jnp.ravel(x)), 0)
        return (self.scale * x * jax.lax.stop_gradient(self.frozen))[self.order], state


def test_scalars_integers_and_frozen_arrays(x64):
    model = Odd(
        eqx.nn.Linear(192, 3, key=KEY),
        jnp.asarray(0.7),
        jnp.arange(1.0, 4.0),
        jnp.asarray([2, 0, 1]),
        jnp.asarray([True, True, False]),
    )
    found = exact(net_of(model))
    assert found.outputs is not None
    shares = found.outputs.per_leaf()
    assert shares["frozen"].value == 0
    assert shares["scale"].value > 0
    assert not {"order", "mask"} & set(shares)


class Chain(eqx.Module):
    layers: Any

    def __call__(self, x, state, *, key=None):
        return self.layers(jnp.ravel(x)[:6]), state


class Twice(eqx.Module):
    shared: eqx.nn.Shared

    def __call__(self, x, state, *, key=None):
        first, second = self.shared()
        x = jax.nn.relu(first(jnp.ravel(x)[:6]))
        return second(x)[:3], state


class Standardised(eqx.nn.Linear):
    """A layer that does more with its weight than a product."""

    def __call__(self, x, *, key=None):
        return (self.weight / jnp.linalg.norm(self.weight)) @ x


def both(net):
    """tr H with and without signs of each example's own, beside the dense matrix."""
    examples = data(4)
    truth = blocks(net, examples).sum()
    for flip in (False, True):
        found = sharpness.probe_traces(
            net, examples, "ce", probes=300, flip=flip, key=KEY
        ).estimate("hess")
        assert abs(found.value - truth) < 4 * found.standard_error
        assert found.standard_error < 0.5 * abs(truth)


def test_shared_and_wrapped_layers(x64):
    keys = jax.random.split(KEY, 3)
    one, two = (eqx.nn.Linear(6, 6, key=key) for key in keys[:2])
    head = eqx.nn.Linear(6, 3, key=keys[2])
    relu = eqx.nn.Lambda(jax.nn.relu)
    # Twice in the tree, an array is two parameters.
    wrapped = [eqx.nn.Lambda(one), relu, eqx.nn.Sequential([one, relu]), head]
    net = net_of(Chain(eqx.nn.Sequential(wrapped)))
    assert net.size == 2 * 42 + 21
    exact(net)
    both(net)
    # Shared, it is one.
    shared = eqx.nn.Shared((one, two), lambda x: x[1].weight, lambda x: x[0].weight)
    net = net_of(Twice(shared))
    assert net.size == 36 + 6 + 6
    curved = sharpness.curved_leaves(net, jnp.asarray(data(2).images))
    assert [name.split(".")[-1] for name in curved] == ["weight"]
    both(net)
    kind: Any = Standardised
    standard = kind(6, 6, use_bias=False, key=keys[0])
    both(net_of(Chain(eqx.nn.Sequential([standard, relu, head]))))


class Complex(eqx.Module):
    z: jax.Array

    def __call__(self, x, state, *, key=None):
        return jnp.stack([jnp.abs(self.z)] * 2), state


def test_complex_parameters_are_refused():
    model = Complex(jnp.zeros((), jnp.complex64))
    with pytest.raises(UsageError, match="parameter z is complex"):
        net_of(model)
    with pytest.raises(UsageError, match="parameter z is complex"):
        training.initialise(
            model, eqx.nn.State(model), training.TrainConfig(epochs=1, batch_size=4), 4
        )


def test_axes_of_networks_are_written_out():
    with jax.numpy_rank_promotion("raise"):
        found = sharpness.hessian_trace(network("wrn"), data(4), "ce", key=KEY)
    assert found.method == "exact"


@pytest.mark.slow
def test_keys_are_used_once_and_axes_written_out():
    with jax.debug_key_reuse(True), jax.numpy_rank_promotion("raise"):
        net, examples = make(lambda a, x: a["two"] @ (a["one"] @ x), TWO), data(6)
        for name in ("trace", "ntk", "eigenvalues", "xtrace", "hutch++"):
            measurements.compute_measure(
                net, examples, name, "ce", probes=10, key=jax.random.key(0)
            )
        sharpness.compare(
            net,
            examples,
            examples,
            "ce",
            probes=3,
            eigenvectors=1,
            key=jax.random.key(0),
        )
        sharpness.original_traces(
            net,
            examples,
            examples,
            weight_decay=0.1,
            batch_size=4,
            devices=2,
            key=jax.random.key(0),
        )
        pixels = np.full((2, 4, 4, 3), 51, np.uint8)
        ready = images_of.normalise(
            jnp.asarray(pixels), (0.1, 0.2, 0.3), (0.5, 0.5, 0.1)
        )
        close(ready[1, :, 2, 3], (0.2, 0.0, -1.0), 1e-6)
        cut = images_of.cutout(jax.random.key(0), ready + 2, 2)
        assert (np.asarray(cut) == 0).any()
