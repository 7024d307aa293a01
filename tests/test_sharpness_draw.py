"""Errors of the draw of images, of numbers that are no plain means over them."""

import jax
import numpy as np
import pytest

from eqcifar import measurements, sharpness
from eqcifar.sharpness import Examples
from eqcifar.sharpness._draw import cut, estimate_fitted

from .sharpness_tools import close, data, dense, network

KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def relu():
    with jax.enable_x64(True):
        net, split = network("relu"), data(30)
        return net, split.sample(20, seed=1), dense(net, split)


def measure(relu, name, **options):
    options = {"loss": "ce", "probes": 10, **options}
    return measurements.compute_measure(
        relu[0], relu[1], name, key=KEY, **options
    ).values


def expected(value, terms, halves, n=20, size=30):
    """The estimate's value and error, from its formula."""
    left = 1 - n / size
    excess = left * (np.asarray(halves).mean(1) - value)
    first = terms.var(ddof=1) / n * left
    second = excess.var(ddof=1) * (1 + 1 / len(excess)) + excess.mean() ** 2
    return value - excess.mean(), np.sqrt(first + second)


def halves_of(sample):
    """The positions in the split of both halves of each cut."""
    cuts = cut(len(sample))
    return [[sample.order[cuts.members(h)] for h in both] for both in cuts.sides]


def test_cuts_into_halves_are_balanced():
    for size, groups in ((1, 1), (2, 2), (3, 2), (7, 4), (20, 8), (1000, 8)):
        cuts = cut(size)
        assert len(cuts.sizes) == groups == len(cuts.first) + 1
        assert cuts.sizes.max() - cuts.sizes.min() <= 1
        signs = np.where(cuts.first, 1, -1)
        assert (signs @ signs.T == groups * np.eye(groups - 1)).all()
        assert (signs.sum(axis=1) == 0).all()
        assert np.abs(cuts.shares.sum(axis=2) - 1).sum() < 1e-12
    # Batches stay together.
    cuts = cut(20, together=4)
    group = cuts.group.reshape(5, 4)
    assert (group == group[:, :1]).all()
    examples = data(20, batch_size=4)
    seen = [b.ids for some in cuts.groups(examples) for b in some.batches()]
    close(np.sort(np.stack(seen), axis=0), np.arange(20).reshape(5, 4))


def leading(matrix, count=2):
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1][:count], vectors[:, ::-1][:, :count]


@pytest.mark.parametrize("kind", ["hess", "ggn"])
def test_eigenvalues_of_a_sample(x64, relu, kind):
    _, sample, truth = relu
    name, method = {"hess": ("lambda", "hessian"), "ggn": ("lambda_ggn", "ggn")}[kind]
    got = measure(relu, "eigenvalues", top=2)
    near = measure(relu, "eigenvalues", top=2, rtol=1e-3)
    each = getattr(truth, method)("ce")
    values, vectors = leading(each[sample.order].mean(0))
    halves = np.asarray(
        [
            [leading(each[half].mean(0))[0] for half in both]
            for both in halves_of(sample)
        ]
    )
    for k in (0, 1):
        terms = np.einsum("p,ipq,q->i", *(vectors[:, k], each, vectors[:, k]))
        value, error = expected(values[k], terms[sample.order], halves[..., k])
        estimate = got[f"{name}_{k + 1}"]
        exact = near[f"{name}_{k + 1}"]
        close(exact.value + exact.bias, values[k], 1e-5)
        # Where Lanczos stops by itself is nothing beside the error of the draw.
        assert abs(estimate.value + estimate.bias - values[k]) < 0.01 * error
        # Halves' eigenvalues are found near those of all, by one product.
        assert abs(estimate.value - value) < 0.3 * error
        close(estimate.standard_error, error, 0.2)
        assert estimate.examples == 20


def test_the_interval_of_an_eigenvalue_holds_that_of_all_images():
    rng = np.random.default_rng(0)
    size, count, repeats = 2000, 100, 200
    rows = rng.normal(size=(size, 8)) * np.sqrt([3.0, 2, 1, 1, 1, 1, 0.5, 0.5])
    truth = np.linalg.eigvalsh(rows.T @ rows / size)[-1]

    def largest(ids):
        return np.linalg.eigvalsh(rows[ids].T @ rows[ids] / len(ids))[-1]

    draws = []
    for seed in range(repeats):
        ids = rng.choice(size, count, replace=False)
        vector = np.linalg.eigh(rows[ids].T @ rows[ids])[1][:, -1]
        cuts = cut(count, seed=seed)
        halves = [[largest(ids[cuts.members(h)]) for h in both] for both in cuts.sides]
        terms = (rows[ids] @ vector) ** 2
        draws.append(
            estimate_fitted(largest(ids), terms, np.asarray(halves), population=size)
        )
    held = [low <= truth <= high for low, high in (e.interval() for e in draws)]
    assert 0.9 <= np.mean(held) <= 1.0
    plain = np.mean([e.value + e.bias for e in draws]) / truth - 1
    left = np.mean([e.value for e in draws]) / truth - 1
    assert abs(left) < 0.5 * plain


def test_the_rise_along_a_fixed_line_errs_as_a_mean(x64, relu):
    net, sample, _ = relu
    direction = sharpness.filter_normalised(net, jax.random.split(KEY, 1)[0])

    def losses(step):
        moved = jax.tree.map(lambda p, d: p + step * d, net.params, direction)
        logits = net(moved, jax.numpy.asarray(sample.images[sample.order]))
        labels = jax.numpy.asarray(sample.chosen_labels)
        return np.asarray(jax.vmap(sharpness.get_loss("ce"))(logits, labels))

    rises = (losses(0.5) + losses(-0.5)) / 2 - losses(0.0)
    got = measure(relu, "landscape")["line"]
    close(got.value, rises.mean())
    close(got.standard_error, np.sqrt(rises.var(ddof=1) / 20 * (1 - 20 / 30)))
    assert got.bias == 0


def test_the_worst_rise_of_a_sample(x64, relu):
    net, sample, _ = relu

    def rise(ids):  # as a split of its own, which leaves nothing to be drawn
        own = Examples(sample.images[ids], sample.labels[ids], batch_size=4)
        return sharpness.sam_sharpness(net, own, "ce", radius=0.1).value

    got = sharpness.sam_sharpness(net, sample, "ce", radius=0.1)
    halves = np.asarray([[rise(half) for half in both] for both in halves_of(sample)])
    whole = rise(sample.order)
    excess = (1 - 20 / 30) * (halves.mean(1) - whole)
    close(got.value + got.bias, whole)
    close(got.bias, excess.mean())
    spread = (np.diff(halves, axis=1) ** 2).mean() / 4 * (1 - 20 / 30)
    assert got.data_error**2 >= spread + got.bias**2


def test_the_mean_rise_errs_by_directions_and_images(x64, relu):
    got = measure(relu, "radius")
    for name in ("average", "average_adaptive"):
        assert got[name].probe_error > 0
        assert got[name].data_error > 0
        assert got[name].examples == 20


def test_the_ntk_of_a_sample(x64, relu):
    _, sample, truth = relu
    got = measure(relu, "gram")
    j = truth.j[sample.order]
    each = np.einsum("icp,icq->ipq", j, j)
    values, vectors = leading(each.mean(0), 1)
    largest = got["lmax_ntk"]
    close(largest.value + largest.bias, values[0])
    terms = np.einsum("p,ipq,q->i", *(vectors[:, 0], each, vectors[:, 0]))
    first = np.sqrt(terms.var(ddof=1) / 20 * (1 - 20 / 30))
    assert first <= largest.standard_error < 2 * first
    # Over all samples the estimate of ||K||_F^2 is right on average.
    pairs = np.einsum("ipq,jpq->ij", each, each)
    norm = 29 / 30 * (pairs.sum() - np.trace(pairs)) / (20 * 19)
    norm += np.trace(pairs) / 20 / 30
    close(got["rank_ntk"].value, (j**2).sum((1, 2)).mean() ** 2 / norm)
