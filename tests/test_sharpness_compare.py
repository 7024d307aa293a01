"""Comparisons, finite radii, landscapes and the original's columns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqcifar import sharpness
from eqcifar.errors import UsageError

from .sharpness_tools import close, data, dense, mean_loss, network

KEY = jax.random.key(11)


@pytest.fixture(scope="module")
def pair():
    with jax.enable_x64(True):
        net = network("relu")
        first, second = data(8), data(6, seed=1)
        return net, first, second, dense(net, first), dense(net, second)


def cosine(a, b):
    return (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())


def test_comparison_estimates_cosines_and_ratios(x64, pair):
    net, first, second, a, b = pair
    got = sharpness.compare(net, first, second, "ce", probes=60, key=KEY)
    for name, method in (("hess", "hessian"), ("ggn", "ggn"), ("resid", "resid")):
        one, two = getattr(a, method)("ce"), getattr(b, method)("ce")
        halves = [one[h.order].mean(0) for h in first.halves(0)]
        halves += [two[h.order].mean(0) for h in second.halves(0)]
        truth = {
            "splits": cosine(one.mean(0), two.mean(0)),
            "first": cosine(halves[0], halves[1]),
            "second": cosine(halves[2], halves[3]),
            "across": np.mean(
                [cosine(halves[i], halves[j]) for i in (0, 1) for j in (2, 3)]
            ),
        }
        for label, value in truth.items():
            estimate = got.cosine[name][label]
            assert estimate.standard_error < 0.2
            assert abs(estimate.value - value) < 4 * estimate.standard_error
    ratio = got.trace_ratio["hess"]
    truth = np.trace(b.hessian("ce").mean(0)) / np.trace(a.hessian("ce").mean(0))
    assert abs(ratio.value - truth) < 4 * ratio.standard_error
    # Each probe passes over each of the 14 examples with two products, by halves.
    assert got.matvecs == 60 * 8
    with pytest.raises(UsageError, match="at least 3"):
        sharpness.compare(net, first, second, "ce", probes=2, key=KEY)


def test_a_split_is_like_itself(x64, pair):
    net, first, *_ = pair
    got = sharpness.compare(net, first, first, "mse", probes=3, key=KEY)
    close(got.cosine["hess"]["splits"].value, 1.0)
    close(got.trace_ratio["ggn"].value, 1.0)


def test_subspace_overlap_with_control(x64, pair):
    net, first, second, a, b = pair
    got = sharpness.compare(
        net, first, second, "mse", probes=3, eigenvectors=2, key=KEY
    )
    bases = []
    for half, truth in (
        *((h, a) for h in first.halves(0)),
        *((h, b) for h in second.halves(0)),
    ):
        values, vectors = np.linalg.eigh(truth.hessian("mse")[half.order].mean(0))
        bases.append(vectors[:, np.argsort(-np.abs(values))[:2]])
    pairs = {
        "across": [(0, 2), (0, 3), (1, 2), (1, 3)],
        "first": [(0, 1)],
        "second": [(2, 3)],
    }
    assert set(got.overlap) == set(pairs)
    for label, which in pairs.items():
        truth = np.mean([((bases[i].T @ bases[j]) ** 2).sum() / 2 for i, j in which])
        close(got.overlap[label], truth, 1e-2)


def test_small_radii_are_the_derivatives(x64, pair):
    net, first, _, truth, _ = pair
    theta = np.asarray(ravel_pytree(net.params)[0])
    gradient = np.einsum("ic,icp->p", truth.inner("ce")[0], truth.j) / 8
    radius = 1e-6
    # ASAM: |theta| + 0.01 for weights alone.
    weights, _ = ravel_pytree(
        jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.full(
                leaf.shape,
                jax.tree_util.keystr(path).endswith(".weight") and leaf.ndim > 1,
            ),
            net.params,
        )
    )
    asam = np.where(weights, np.abs(theta) + 0.01, 1.0)
    assert 0 < np.sum(weights) < theta.size
    for adaptive, scale in ((False, 1.0), (True, asam)):
        got = sharpness.sam_sharpness(
            net, first, "ce", radius=radius, adaptive=adaptive
        )
        close(got.value / radius, np.linalg.norm(scale * gradient), 1e-4)
    hessian = truth.hessian("ce").mean(0)
    for adaptive, scale in ((False, np.ones_like(theta)), (True, asam)):
        radius = 1e-3
        got = sharpness.average_sharpness(
            net, first, "ce", radius=radius, adaptive=adaptive, probes=40, key=KEY
        ).scale(2 * theta.size / radius**2)
        expected = np.trace(hessian * np.outer(scale, scale))
        assert abs(got.value - expected) < 4 * got.standard_error


def test_sam_moves_to_the_worst_point_on_the_sphere(x64, pair):
    net, first, _, truth, _ = pair
    theta = np.asarray(ravel_pytree(net.params)[0])
    gradient = np.einsum("ic,icp->p", truth.inner("ce")[0], truth.j) / 8
    end = theta + 0.1 * gradient / np.linalg.norm(gradient)
    rise = mean_loss(net, first, end) - mean_loss(net, first, theta)
    close(sharpness.sam_sharpness(net, first, "ce", radius=0.1).value, rise)
    more = sharpness.sam_sharpness(net, first, "ce", radius=0.1, steps=3)
    assert more.value >= rise


def test_what_rises_begin_with_can_be_shared(x64, pair):
    net, first, *_ = pair
    slope = sharpness.slope_of(net, first, "ce")
    for adaptive in (False, True):
        find = partial(sharpness.sam_sharpness, net, first, "ce", adaptive=adaptive)
        assert find(slope=slope).value == find().value
        find = partial(
            sharpness.average_sharpness,
            *(net, first, "ce"),
            adaptive=adaptive,
            probes=2,
            key=KEY,
        )
        assert find(losses=slope.losses).value == find().value


def test_landscapes_are_the_loss_on_a_grid(x64, pair):
    net, first, *_ = pair
    theta = np.asarray(ravel_pytree(net.params)[0])
    one = sharpness.filter_normalised(net, KEY)
    vector = np.random.default_rng(0).normal(size=theta.shape)
    two = sharpness.as_direction(net, jnp.asarray(vector))
    line = sharpness.landscape(net, first, [one], "ce", reach=0.5, points=3)
    plane = sharpness.landscape(net, first, [one, two], "ce", reach=0.5, points=3)
    flat = np.asarray(ravel_pytree(one)[0])
    for i, a in enumerate((-0.5, 0.0, 0.5)):
        close(line.loss[i], mean_loss(net, first, theta + a * flat))
        for j, b in enumerate((-0.5, 0.0, 0.5)):
            value = mean_loss(net, first, theta + a * flat + b * vector)
            close(plane.loss[i, j], value)
    assert ((plane.accuracy >= 0) & (plane.accuracy <= 1)).all()
    with pytest.raises(UsageError, match="one direction"):
        sharpness.landscape(net, first, [], "ce")


def test_filter_normalised_directions_have_the_filters_lengths(x64, pair):
    net = pair[0]
    direction = jax.tree.leaves(sharpness.filter_normalised(net, KEY))
    for leaf, other in zip(jax.tree.leaves(net.params), direction, strict=True):
        if leaf.size == len(leaf):
            assert not other.any()
        else:
            norms = [
                np.linalg.norm(np.asarray(x).reshape(len(x), -1), axis=1)
                for x in (leaf, other)
            ]
            close(norms[1], norms[0])


def test_the_original_columns(x64, pair):
    net, first, second, a, b = pair
    got = sharpness.original_traces(
        net, first, second, weight_decay=5e-4, batch_size=4, devices=2, key=KEY
    )
    penalty = 5e-4 * net.size
    hess = [
        np.trace(m.mean(0))
        for m in (a.hessian("mse")[:4], a.hessian("mse"), b.hessian("mse"))
    ]
    ntk = [(m**2).sum((1, 2)).mean() for m in (a.j[:4], a.j, b.j)]
    names = ("batch", "dataset", "dataset_te")
    for i, name in enumerate(names):
        close(got.columns[f"tr_hess_{name}"].value, (hess[i] + penalty) / 2)
        close(got.columns[f"tr_ntk_{name}"].value, ntk[i])
        assert got.columns[f"tr_ntk_{name}"].standard_error == 0
    assert list(got.columns) == [
        "tr_hess_batch",
        "tr_hess_dataset",
        "tr_ntk_batch",
        "tr_ntk_dataset",
        "tr_hess_dataset_te",
        "tr_ntk_dataset_te",
    ]
    assert len(got.defects) == 2
    with pytest.raises(UsageError, match="cannot split"):
        sharpness.original_traces(
            net, first, second, weight_decay=0.0, batch_size=4, devices=3, key=KEY
        )
