"""The general path, and the streaming loop under it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqcifar import sharpness
from eqcifar.errors import RunError, UsageError
from eqcifar.sharpness._flips import sign_count

from .sharpness_tools import close, data, dense, make, network

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def smooth():
    with jax.enable_x64(True):
        net, examples = network("gelu"), data(8)
        return net, examples, dense(net, examples)


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_quadratic_forms_are_those_of_the_dense_matrices(x64, smooth, loss):
    net, examples, truth = smooth
    flat, unravel = ravel_pytree(net.params)
    v = np.random.default_rng(0).normal(size=flat.shape)
    forms = sharpness.quadratic_forms(
        net,
        sharpness.get_loss(loss),
        jnp.asarray(examples.images),
        jnp.asarray(examples.labels),
        unravel(jnp.asarray(v)),
    )
    slopes = truth.j @ v
    close(forms["ntk"], (slopes**2).sum(1))
    for name in ("hessian", "ggn", "resid"):
        matrices = getattr(truth, name)(loss)
        got = forms["hess" if name == "hessian" else name]
        close(got, np.einsum("ipq,p,q->i", matrices, v, v))


def test_the_estimator_is_unbiased_and_its_error_right(x64, smooth):
    net, examples, truth = smooth
    means = {
        "hess": truth.hessian("mse").mean(0),
        "ggn": truth.ggn("mse").mean(0),
        "resid": truth.resid("mse").mean(0),
    }
    traces = sharpness.probe_traces(
        net, examples, "mse", probes=150, flip=False, key=KEY
    )
    for name, matrix in means.items():
        estimate = traces.estimate(name)
        assert abs(estimate.value - np.trace(matrix)) < 4 * estimate.standard_error
    # Two groups of four: half the variance of one probe, by the closed form.
    halves = [truth.hessian("mse")[i : i + 4].mean(0) for i in (0, 4)]
    one = [2 * ((h**2).sum() - (np.diag(h) ** 2).sum()) for h in halves]
    expected = (np.sum(one) / 4 / 150) ** 0.5
    np.testing.assert_allclose(traces.estimate("hess").probe_error, expected, rtol=0.2)
    controlled = traces.controlled(np.trace(truth.ggn("mse"), axis1=1, axis2=2))
    error = abs(controlled.value - np.trace(means["hess"]))
    assert error < 4 * controlled.standard_error
    assert controlled.standard_error < traces.estimate("hess").standard_error


def own_direction(net, vector, row):
    """The direction of one example, written out layer by layer."""
    row, parts = list(row), []
    for leaf in jax.tree.leaves(vector):
        if leaf.size == max(leaf.shape):  # a bias
            signs = np.asarray([row.pop(0) for _ in range(leaf.size)])
            parts.append(leaf * signs.reshape(leaf.shape))
        else:
            outputs = np.asarray([row.pop(0) for _ in range(leaf.shape[0])])
            inputs = np.asarray([row.pop(0) for _ in range(leaf.shape[1])])
            signs = np.outer(outputs, inputs)
            parts.append(leaf * signs.reshape(signs.shape + (1,) * (leaf.ndim - 2)))
    assert not row
    return np.concatenate([np.ravel(part) for part in parts])


def test_each_example_has_its_own_direction(x64, smooth):
    net, examples, truth = smooth
    flat, unravel = ravel_pytree(net.params)
    rng = np.random.default_rng(0)
    v = unravel(jnp.asarray(rng.normal(size=flat.shape)))
    signs = rng.choice([-1.0, 1.0], (8, sign_count(net)))
    forms = sharpness.quadratic_forms(
        net,
        sharpness.get_loss("ce"),
        jnp.asarray(examples.images),
        jnp.asarray(examples.labels),
        v,
        jnp.asarray(signs),
    )
    own = np.stack([own_direction(net, v, row) for row in signs])
    assert np.abs(own[0]).tolist() == np.abs(own[1]).tolist()
    for name, matrices in (
        ("ggn", truth.ggn("ce")),
        ("resid", truth.resid("ce")),
        ("ntk", np.einsum("icp,icq->ipq", truth.j, truth.j)),
    ):
        close(forms[name], np.einsum("ipq,ip,iq->i", matrices, own, own))


def test_own_directions_estimate_the_same_with_less_error(x64, smooth):
    net, examples, truth = smooth
    same = examples.take(np.full(16, 3)).with_batch_size(16)
    for name, matrix in (("ggn", truth.ggn("mse")), ("resid", truth.resid("mse"))):
        errors = []
        for flip in (False, True):
            found = sharpness.probe_traces(
                net, same, "mse", probes=100, flip=flip, key=KEY
            ).estimate(name)
            expected = np.trace(matrix[3])
            assert abs(found.value - expected) < 4 * found.standard_error
            errors.append(found.standard_error)
        assert errors[1] < 0.6 * errors[0]


def test_a_layer_that_is_not_called_has_common_directions(x64, smooth):
    class Tied(eqx.Module):
        layer: eqx.nn.Linear

        def __call__(self, x, state, *, key=None):
            return self.layer.weight @ jnp.ravel(x), state

    model = Tied(eqx.nn.Linear(192, 3, use_bias=False, key=KEY))
    net, examples = sharpness.Network(model, eqx.nn.State(model)), data(4)
    one, two = (
        sharpness.probe_traces(net, examples, "ce", probes=2, flip=flip, key=KEY)
        for flip in (False, True)
    )
    np.testing.assert_array_equal(one.values["hess"], two.values["hess"])


def test_scaled_directions_estimate_the_scaled_trace(x64, smooth):
    net, examples, truth = smooth
    theta = np.asarray(ravel_pytree(net.params)[0])
    matrix = truth.ggn("ce").mean(0) * np.outer(theta, theta)
    traces = sharpness.probe_traces(
        net, examples, "ce", probes=100, scaled="theta", key=KEY
    )
    estimate = traces.estimate("ggn")
    assert abs(estimate.value - np.trace(matrix)) < 4 * estimate.standard_error


def test_a_ragged_batch_counts_each_example_once(x64, smooth):
    net, examples, _ = smooth
    traces = sharpness.probe_traces(
        net, examples.take(np.arange(7)), "ce", probes=2, fresh=False, key=KEY
    )
    whole = sharpness.probe_traces(net, examples, "ce", probes=2, fresh=False, key=KEY)
    close(traces.values["hess"], whole.values["hess"][:7], 1e-12)


def test_an_interrupted_pass_resumes_to_the_same_bits(x64, smooth, tmp_path):
    net, examples, _ = smooth
    examples = examples.with_batch_size(4)
    whole = sharpness.probe_traces(net, examples, "ce", probes=2, key=KEY)
    pages, path = {}, tmp_path / "partial.npz"

    def stop_early(seen, wanted, rows):
        assert wanted == 8
        sharpness.save_rows(path, rows, "gelu ce")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), sharpness.keeping(pages, stop_early):
        sharpness.probe_traces(net, examples, "ce", probes=2, key=KEY)
    with pytest.raises(UsageError, match="another measurement"):
        sharpness.load_rows(path, "relu ce")
    rows = sharpness.load_rows(path, "gelu ce")
    assert list(rows) == [0]
    with sharpness.keeping({"": rows}):
        resumed = sharpness.probe_traces(net, examples, "ce", probes=2, key=KEY)
    for name, table in whole.values.items():
        np.testing.assert_array_equal(resumed.values[name], table)
    assert sharpness.load_rows(tmp_path / "none.npz", "") == {}


def test_rtol_stops_early(x64):
    net, examples = network("linear"), data(400, batch_size=4).sample(400, seed=3)
    result = sharpness.output_traces(net, examples, "mse", scaled=("plain",), rtol=0.05)
    estimate = result.estimate()
    assert 50 <= estimate.examples < 400
    assert estimate.half_width() <= 0.05 * estimate.value
    assert estimate.data_error > 0
    assert len(result.ids) == len(result.labels) == estimate.examples


@pytest.mark.parametrize("kind", ["relu", "gelu"])
def test_a_plan_from_a_pilot_holds(kind):
    net, examples = network(kind), data(300, batch_size=10).sample(300, seed=1)
    found = sharpness.how_many(net, examples, "ce", rtol=0.1, pilot=60, key=KEY)
    assert (found.exact is None) == (kind == "gelu")
    count = found.random.examples
    assert found.random.reached <= 0.1
    got = sharpness.hessian_trace(
        net,
        examples.take(examples.order[:count]),
        "ce",
        probes=found.random.probes if kind == "relu" else 0,
        residual_probes=max(found.random.probes, 2),
        key=jax.random.key(1),
    ).hess
    assert got.examples == count
    if got.probes > 1 or kind == "gelu":
        assert 0.05 < got.half_width() / got.value < 0.15


def test_diverged_parameters_are_reported():
    model, state = make("relu")
    last = lambda m: m.layers[2].weight  # noqa: E731
    model = eqx.tree_at(last, model, jnp.full_like(last(model), jnp.nan))
    net = sharpness.Network(model, state)
    with pytest.raises(RunError, match="not finite"):
        sharpness.probe_traces(net, data(4), "mse", probes=2, key=KEY)


def test_examples_refuse_what_cannot_be_measured():
    examples = data(4)
    with pytest.raises(UsageError, match="no examples"):
        examples.take(np.zeros(0, int))
    with pytest.raises(UsageError, match="labels"):
        dataclasses.replace(examples, labels=np.zeros(3, np.int32))
    with pytest.raises(UsageError, match="cannot draw 5"):
        examples.sample(5)
    with pytest.raises(UsageError, match="halves"):
        examples.take(np.arange(1)).halves()
    with pytest.raises(UsageError, match="allow more memory"):
        sharpness.output_traces(
            network("relu"), examples.with_batch_size(3), "mse", memory=9.0
        )
    with pytest.raises(UsageError, match="no loss .hinge.|unknown loss"):
        sharpness.get_loss("hinge")
    bad = dataclasses.replace(examples, labels=np.full(4, 9, np.int32))
    with pytest.raises(UsageError, match="label 9"):
        sharpness.output_traces(network("relu"), bad, "mse")


def test_uint8_images_are_prepared_on_the_device():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    labels = np.zeros(4, np.int32)

    def prepare(batch):
        return jnp.moveaxis(batch.astype(jnp.float32) / 255, -1, 1)

    examples = sharpness.Examples(images, labels, prepare=prepare, batch_size=4)
    ready = sharpness.Examples(np.asarray(prepare(images)), labels, batch_size=4)
    net = network("relu")
    a, b = (
        sharpness.output_traces(net, e, "mse").estimate() for e in (examples, ready)
    )
    assert a.value == b.value


def test_one_example_is_enough_for_the_split(x64):
    estimate = sharpness.output_traces(network("relu"), data(1), "mse").estimate()
    assert estimate.standard_error == 0
    assert estimate.value > 0


def test_models_that_couple_a_batch_are_refused():
    class Coupled(eqx.Module):
        weight: jax.Array

        def __call__(self, x, state, *, key=None):
            centred = x - jax.lax.pmean(x, "batch")
            return self.weight @ jnp.ravel(centred), state

    model = Coupled(jnp.ones((3, 192)))
    net = sharpness.Network(model, eqx.nn.State(model))
    with pytest.raises(UsageError, match="depend on the rest"):
        sharpness.output_traces(net, data(4), "mse")
