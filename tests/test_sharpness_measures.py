"""What the measures by name give, against dense matrices."""

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqcifar import measurements, measures, sharpness
from eqcifar.errors import UsageError

from .sharpness_tools import CLASSES, close, data, dense, mean_loss, network

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def relu():
    with jax.enable_x64(True):
        net, examples = network("relu"), data(8)
        return net, examples, dense(net, examples)


def measure(relu, name, **options):
    net, examples, _ = relu
    options = {"loss": "ce", "probes": 10, **options}
    return measurements.compute_measure(net, examples, name, key=KEY, **options)


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_the_largest_eigenvalues_and_their_bounds(x64, relu, loss):
    truth = relu[2]
    got = measure(relu, "eigenvalues", loss=loss, top=3)
    assert len(got.values) == 6
    for name, matrix in (
        ("lambda", truth.hessian(loss)),
        ("lambda_ggn", truth.ggn(loss)),
    ):
        expected = np.linalg.eigvalsh(matrix.mean(0))[::-1]
        for k in (1, 2, 3):
            value, bound = got.values[f"{name}_{k}"].value, got.bounds[f"{name}_{k}"]
            assert abs(value - expected[k - 1]) <= bound <= 1e-3 * expected[0]


def test_single_precision_has_its_own_bound():
    matrix = np.diag(np.arange(1.0, 41)).astype(np.float32)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))[0]
    matrix = jax.numpy.asarray(basis @ matrix @ basis.T, jax.numpy.float32)
    apply = sharpness.Operator(lambda v: matrix @ v, 40)
    got = sharpness.eigenpairs(apply, 2, steps=40, rtol=0.0, key=KEY)
    error = np.abs(got.values - [40, 39])
    assert (error <= got.bounds).all()
    assert (got.bounds < 1e-3).all()


def test_directions_are_the_leading_eigenvectors(x64, relu):
    net, examples, truth = relu
    theta = np.asarray(ravel_pytree(net.params)[0])
    first, second = np.linalg.eigh(truth.hessian("ce").mean(0))[1][:, :-3:-1].T
    here = mean_loss(net, examples, theta)

    def rise(*directions):
        ends = [mean_loss(net, examples, theta + d) for d in directions]
        return np.mean(ends) - here

    line = measure(relu, "eigenline")
    expected = rise(0.5 * first, -0.5 * first)
    close(line.values["eigenline"].value, expected, 1e-3)
    table = line.tables["eigenline"]
    assert table["normalised by"] == "running statistics"
    close(table["loss"][10], here)
    found = measure(relu, "eigenplane")
    loss = np.asarray(found.tables["eigenplane"]["loss"])
    assert loss.shape == (31, 31)
    close(loss[15, 15], here)
    plane = found.values["eigenplane"].value
    both, apart = 0.5 * (first + second), 0.5 * (first - second)
    close(plane, rise(both, -both, apart, -apart), 1e-2)


@pytest.mark.parametrize("name", ["hutchinson", "hutch++", "xtrace", "xnystrace"])
def test_traces_by_products(x64, relu, name):
    truth = relu[2]
    got = measure(relu, name, probes=90).values
    # The GGN of 8 images has rank 16, which all but the first method exhaust.
    ggn, expected = got[f"tr_ggn_{name}"], np.trace(truth.ggn("ce").mean(0))
    if name == "hutchinson":
        assert abs(ggn.value - expected) < 4 * ggn.standard_error
    else:
        close(ggn.value, expected, 1e-6)
    if name == "xnystrace":
        assert list(got) == ["tr_ggn_xnystrace"]
    else:
        hess, expected = got[f"tr_hess_{name}"], np.trace(truth.hessian("ce").mean(0))
        assert abs(hess.value - expected) < 4 * hess.standard_error
        assert hess.matvecs == 90
    assert {estimate.examples for estimate in got.values()} == {8}


def test_the_trace_of_the_ntk_is_a_sum_or_a_mean_over_classes(x64, relu):
    squares = (relu[2].j ** 2).sum((1, 2)).mean()
    rows = {}
    whole = measure(relu, "ntk", probes=0, rows=rows)
    mean = measure(relu, "ntk_mean", probes=0, rows=rows)
    close(whole.values["tr_ntk"].value, squares)
    close(mean.values["tr_ntk_mean"].value, squares / CLASSES)
    assert not set(whole.values) & set(mean.values)


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_measures_of_one_command_share_a_pass(x64, relu, loss):
    names, rows, passes = ("trace", "ntk", "unit", "ntk_mean"), {}, []
    options = {"loss": loss, "rtol": 0.3}
    for name in names:
        seen = []
        found = measure(
            relu,
            name,
            together=names,
            rows=rows,
            report=lambda done, total, sofar, seen=seen: seen.append(sofar()),
            **options,
        )
        passes.append(len(seen))
        alone = measure(relu, name, **options)
        for column, estimate in found.values.items():
            close(estimate.value, alone.values[column].value, 1e-12)
            close(estimate.standard_error, alone.values[column].standard_error)
        if name == "trace":
            assert seen[-1].value == found.values["tr_ggn"].value
    # The others read the rows of the first.
    assert passes[1:] == [passes[0]] * 3
    assert len(rows) == 1


def test_lanczos_takes_the_steps_that_memory_admits(x64, relu):
    size = relu[0].size * 8
    # A basis may take four times the memory: 16 vectors, and then 2.
    got = measure(relu, "lmax", memory=16 * size / 4)
    expected = np.linalg.eigvalsh(relu[2].hessian("ce").mean(0))[-1]
    error = abs(got.values["lmax"].value - expected)
    assert error <= got.bounds["lmax"] < 0.1 * expected
    with pytest.raises(UsageError, match="allow more memory"):
        measure(relu, "lmax", memory=2 * size / 4)


def test_every_number_has_a_meaning():
    names = ["lambda_3", "lambda_ggn_12", "tr_ggn_xtrace", "tr_hess_hutch++", "plane"]
    for name in names:
        assert "(ce)" in measures.meaning(name, "ce") or "ce loss" in (
            measures.meaning(name, "ce")
        )
        assert measures.depends_on_loss(name)
    assert not measures.depends_on_loss("tr_ntk_mean")
