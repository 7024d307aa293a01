"""The exact path against closed forms and dense matrices in float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqcifar import sharpness, training
from eqcifar.errors import UsageError
from eqcifar.losses import cross_entropy, squared_error

from .sharpness_tools import CLASSES, UnitLogits, close, data, dense, make, network


def test_linear_regression(x64):
    examples = data(7)
    x = np.asarray(examples.images).reshape(7, -1)
    result = sharpness.output_traces(network("linear"), examples, "mse")
    close(result.estimate().value, CLASSES * ((x**2).sum(1) + 1).mean())
    close(result.per_output(), np.full(CLASSES, ((x**2).sum(1) + 1).mean()))


def test_softmax_regression(x64):
    examples, net = data(7), network("linear")
    x = np.asarray(examples.images).reshape(7, -1)
    p = np.asarray(jax.nn.softmax(net(net.params, jnp.asarray(examples.images))))
    trace = (1 - (p**2).sum(1)) * ((x**2).sum(1) + 1)
    result = sharpness.hessian_trace(net, examples, "ce", key=jax.random.key(0))
    assert result.method == "exact"
    assert result.curved == ()
    close(result.hess.value, trace.mean())
    assert result.outputs is not None
    close(result.outputs.per_example(), trace)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("resnet", ("mse", "ce")),
        pytest.param("vgg", ("ce",), marks=pytest.mark.slow),
        pytest.param("wrn", ("mse",), marks=pytest.mark.slow),
    ],
)
def test_exact_path_is_the_dense_trace(x64, kind, names):
    examples, net = data(4), network(kind)
    theta = np.asarray(ravel_pytree(net.params)[0])
    truth = dense(net, examples)
    for loss in names:
        result = sharpness.hessian_trace(net, examples, loss, key=jax.random.key(0))
        assert result.method == "exact"
        assert result.curved == ()
        hessian, diagonal = truth.hessian(loss), np.einsum("ipp->ip", truth.ggn(loss))
        assert np.abs(truth.resid(loss)).max() > 1e-3 * np.abs(hessian).max()
        close(result.hess.value, np.trace(hessian.mean(0)))
        assert result.hess.interval() == (result.hess.value, result.hess.value)
        outputs = result.outputs
        assert outputs is not None
        close(outputs.per_example(), diagonal.sum(1))
        close(outputs.per_example("theta"), (diagonal * theta**2).sum(1))
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(net.params)]
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        shares = outputs.per_leaf()
        parts = np.split(diagonal.mean(0), ends)
        close([s.value for s in shares.values()], [part.sum() for part in parts])
        assert tuple(shares) == net.leaves
        relative = outputs.shares()
        close(
            [s.value for s in relative.values()],
            [p.sum() / diagonal.sum(1).mean() for p in parts],
        )
        # All images, and no random vectors.
        assert {s.standard_error for s in relative.values()} == {0.0}
        rows = [leaf.reshape(len(leaf), -1) for leaf in leaves]
        scale = [(r**2).mean(1, keepdims=True) for r in rows]
        filtered = sum(
            (part.reshape(r.shape) * c).sum()
            for part, r, c in zip(parts, rows, scale, strict=True)
        )
        close(outputs.estimate("filter").value, filtered)
        for label, estimate in outputs.per_label().items():
            close(estimate.value, diagonal.sum(1)[examples.labels == label].mean())
        assert outputs.sharpest(2)[0][0] == diagonal.sum(1).argmax()


def test_theta_scaled_trace_is_invariant_to_rescaling(x64):
    model, state = make("relu")
    grow = lambda m: (m.layers[0].weight, m.layers[0].bias, m.layers[1].weight)  # noqa: E731
    a, b, c = grow(model)
    scaled = eqx.tree_at(grow, model, (3.0 * a, 3.0 * b, c / 3.0))
    examples = data(4)
    before = sharpness.output_traces(sharpness.Network(model, state), examples, "mse")
    after = sharpness.output_traces(sharpness.Network(scaled, state), examples, "mse")
    close(after.estimate("theta").value, before.estimate("theta").value)
    close(after.estimate("filter").value, before.estimate("filter").value)
    assert abs(after.estimate().value / before.estimate().value - 1) > 0.1


def test_unit_logits_do_not_see_the_scale_of_the_last_layer(x64):
    model, state = make("relu")
    last = lambda m: (m.layers[2].weight, m.layers[2].bias)  # noqa: E731
    scaled = eqx.tree_at(last, model, tuple(5.0 * w for w in last(model)))
    examples, values = data(4), []
    for m in (model, scaled):
        roots = {"unit": sharpness.UnitLogits()}
        net = sharpness.Network(m, state)
        values.append(sharpness.shared_output_traces(net, examples, roots)["unit"])
        divided = sharpness.Network(UnitLogits(m), state)
        truth = sharpness.output_traces(divided, examples, "mse")
        for name in ("plain", "theta", "filter"):
            close(values[-1].estimate(name).value, truth.estimate(name).value)
    close(values[1].estimate("theta").value, values[0].estimate("theta").value)


@pytest.mark.parametrize("options", [{}, {"probes": 2}, {"probes": 7, "rtol": 0.1}])
def test_passes_that_are_shared_find_what_each_finds_alone(x64, options, monkeypatch):
    monkeypatch.setattr("eqcifar.sharpness._gradient_norms.TOGETHER", 4)
    net, examples = network("relu"), data(120, batch_size=5)
    roots = {
        "ce": sharpness.get_loss("ce"),
        "ntk": sharpness.get_loss("mse"),
        "unit": sharpness.UnitLogits(),
    }
    together = sharpness.shared_output_traces(net, examples, roots, **options)
    counts = set()
    for name, root in roots.items():
        alone = sharpness.shared_output_traces(net, examples, {name: root}, **options)
        one, found = alone[name], together[name]
        counts.add(len(one.ids))
        np.testing.assert_array_equal(found.ids, one.ids)
        for part in ("by_probe", "by_leaf", "by_leaf_variance"):
            for scaled, table in getattr(one, part).items():
                close(getattr(found, part)[scaled], table, 1e-12)
    assert len(counts) > 1 or "rtol" not in options


def test_any_convex_loss(x64):
    examples, net = data(4), network("relu")

    def halved(logits, target):
        return 0.5 * cross_entropy(logits, target) + 0.5 * squared_error(logits, target)

    result = sharpness.output_traces(net, examples, halved).estimate()
    parts = [
        sharpness.output_traces(net, examples, k).estimate() for k in ("ce", "mse")
    ]
    close(result.value, 0.5 * (parts[0].value + parts[1].value))


def test_values_do_not_depend_on_batches_order_or_copies(x64):
    net, key = network("relu"), jax.random.key(0)
    base = data(8)
    order = np.random.default_rng(0).permutation(8)
    variants = [
        base.with_batch_size(3),
        base.take(order),
        base.take(np.concatenate([order, np.arange(8)])),
    ]
    for probes in (0, 2):
        options = {"probes": probes, "key": key}
        value = sharpness.output_traces(net, base, "ce", **options).estimate().value
        for other in variants:
            got = sharpness.output_traces(net, other, "ce", **options)
            close(got.estimate().value, value, 1e-12)


def test_random_outputs_estimate_the_exact_value(x64):
    net, examples = network("relu"), data(8)
    exact = sharpness.output_traces(net, examples, "ce").estimate()
    assert exact.standard_error == 0
    near = sharpness.output_traces(
        net, examples, "ce", probes=30, key=jax.random.key(1)
    )
    estimate = near.estimate()
    assert estimate.data_error == 0
    assert 0 < estimate.probe_error < 0.1 * exact.value
    assert abs(estimate.value - exact.value) < 4 * estimate.standard_error
    shares = near.per_leaf().values()
    close(sum(share.value for share in shares), estimate.value)
    with pytest.raises(UsageError, match="exact path"):
        near.per_output()


def shares_of(parts):
    """Shares of a population, from exact traces of each image and array."""
    n = len(parts)
    return sharpness.OutputTraces(
        by_probe={"plain": parts.sum(1, keepdims=True)},
        by_leaf={"plain": parts},
        by_leaf_variance={"plain": np.zeros_like(parts)},
        exact=True,
        leaves=("a", "b", "c"),
        labels=np.zeros(n, np.int32),
        ids=np.arange(n, dtype=np.int32),
        label_counts=np.array([200_000]),
        seconds=0.0,
    ).shares(target="population")


def test_intervals_of_shares_hold_the_truth():
    rng = np.random.default_rng(0)

    def draw(n):
        # Images of unlike traces, which the arrays share in unlike ways.
        whole = rng.gamma(2.0, size=(n, 1))
        return whole * rng.dirichlet([1.0, 2.0, 5.0], size=n) * [1.0, 2.0, 1.0]

    everything = draw(200_000).mean(0)
    truth, hits = everything / everything.sum(), []
    for _ in range(200):
        parts = draw(100)
        shares = shares_of(parts).values()
        assert sum(share.value for share in shares) == pytest.approx(1.0)
        ends = [share.interval() for share in shares]
        hits.append(
            [low <= t <= high for (low, high), t in zip(ends, truth, strict=True)]
        )
    assert 0.9 <= np.mean(hits) <= 0.99


def test_a_vanished_trace_has_no_shares():
    assert np.isnan(
        [share.value for share in shares_of(np.zeros((4, 3))).values()]
    ).all()


def test_smooth_activations_are_refused_or_corrected(x64):
    net, examples, key = network("gelu"), data(8), jax.random.key(0)
    with pytest.raises(UsageError, match="method='auto'"):
        sharpness.hessian_trace(net, examples, "mse", method="exact", key=key)
    truth = dense(net, examples)
    result = sharpness.hessian_trace(net, examples, "mse", residual_probes=100, key=key)
    assert result.method == "control"
    assert len(result.curved) == 4
    close(result.ggn.value, (truth.j**2).sum((1, 2)).mean())
    for estimate, matrix in (
        (result.hess, truth.hessian("mse")),
        (result.resid, truth.resid("mse")),
    ):
        error = abs(estimate.value - np.trace(matrix.mean(0)))
        assert 0 < error < 4 * estimate.standard_error


def test_batch_statistics_take_the_general_path(x64):
    net = network("vgg", batch_statistics=True)
    examples, key = data(8, batch_size=8), jax.random.key(0)
    images, labels = jnp.asarray(examples.images), jnp.asarray(examples.labels)
    flat, unravel = ravel_pytree(net.params)

    def mean_loss(theta):
        return jnp.mean(
            jax.vmap(sharpness.get_loss("mse"))(net(unravel(theta), images), labels)
        )

    truth = np.trace(jax.jit(jax.jacfwd(jax.grad(mean_loss)))(flat))
    result = sharpness.hessian_trace(net, examples, "mse", residual_probes=100, key=key)
    assert result.method == "general"
    assert abs(result.hess.value - truth) < 4 * result.hess.standard_error
    assert result.curved
    with pytest.raises(UsageError, match="batch statistics"):
        sharpness.output_traces(net, examples, "mse")


def test_examples_on_many_devices_give_the_same_value(x64):
    from eqcifar import parallel

    mesh = parallel.make_mesh(8)
    net, examples = network("relu"), data(19, batch_size=8)
    spread = sharpness.Examples(
        examples.images,
        examples.labels,
        place=lambda x: parallel.split_batch(jnp.asarray(x), mesh),
        batch_size=8,
    )
    everywhere = parallel.replicate(net, mesh)
    for probes in (0, 1):
        one = sharpness.output_traces(net, examples, "ce", probes=probes)
        many = sharpness.output_traces(everywhere, spread, "ce", probes=probes)
        close(many.estimate().value, one.estimate().value, 1e-12)


def test_weight_decay_adds_its_own_trace(x64):
    net = network("linear")
    assert sharpness.penalty_trace(net, 0.1) == pytest.approx(0.1 * (3 * 192 + 3))
    config = training.TrainConfig(weight_decay=0.1, decay_bias=False)
    coefficients = training.l2_coefficients(net.params, config)
    weights = sharpness.penalty_trace(net, coefficients)
    assert weights == pytest.approx(0.1 * 3 * 192)


@pytest.mark.parametrize("name", ["mse", "ce"])
def test_smoothed_labels_change_the_gradient_and_not_the_root(x64, name):
    logits, label = jnp.array([0.3, -1.2, 2.0]), jnp.array(1)
    plain, smoothed = sharpness.get_loss(name), sharpness.get_loss(name, 0.2)
    root = jax.vmap(lambda v: smoothed.root_product(logits, label, v), out_axes=1)(
        jnp.eye(3)
    )
    close(root @ root.T, jax.hessian(smoothed)(logits, label))
    target = 0.8 * np.eye(3)[1] + 0.2 / 3
    output = {"mse": logits, "ce": jax.nn.softmax(logits)}[name]
    close(jax.grad(smoothed)(logits, label), output - target)
    close(jax.grad(plain)(logits, label), output - np.eye(3)[1])
    with pytest.raises(UsageError, match="no loss 'hinge' here: choose mse or ce"):
        sharpness.get_loss("hinge")
