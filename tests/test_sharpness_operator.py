"""Products, trace estimators and spectra against dense matrices and other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqcifar import sharpness
from eqcifar.errors import UsageError
from eqcifar.sharpness._stochastic_trace import XTRACE_WIDENING, _sphere

from .sharpness_tools import CLASSES, close, data, dense, network

KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def relu():
    with jax.enable_x64(True):
        net, examples = network("relu"), data(6)
        return net, examples, dense(net, examples)


def matrix_operator(matrix):
    matrix = jnp.asarray(matrix)
    return sharpness.Operator(lambda v: matrix @ v, len(matrix), matrix.dtype)


def decaying(size=60):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    values = 10.0 * 0.7 ** np.arange(size)
    return (basis * values) @ basis.T, values


@pytest.mark.parametrize(("kind", "name"), [("hess", "hessian"), ("ggn", "ggn")])
def test_products_over_ragged_batches(x64, relu, kind, name):
    net, examples, truth = relu
    apply = sharpness.operator(net, examples, "ce", kind)
    v = np.random.default_rng(1).normal(size=apply.size)
    expected = getattr(truth, name)("ce").mean(0) @ v
    close(apply(jnp.asarray(v)), expected)
    assert apply.matvecs == 1


def test_ntk_product(x64, relu):
    net, examples, truth = relu
    u = np.random.default_rng(1).normal(size=(6, CLASSES))
    kernel = np.einsum("icp,jdp->icjd", truth.j, truth.j)
    got = sharpness.ntk_vector_product(
        net, jnp.asarray(examples.images), jnp.asarray(u)
    )
    close(got, np.einsum("icjd,jd->ic", kernel, u))


def test_ntk_gram_has_the_spectrum_of_the_ggn(x64, relu):
    net, examples, truth = relu
    small = 2.0 * 2 * CLASSES * net.size * 8  # two examples a block
    gram = sharpness.ntk_gram(net, examples, memory=small)
    flat = truth.j.reshape(6 * CLASSES, -1)
    close(gram, flat @ flat.T / 6)
    values = np.linalg.eigvalsh(truth.ggn("mse").mean(0))[::-1][: 6 * CLASSES]
    close(np.linalg.eigvalsh(gram)[::-1], values)
    close(
        np.trace(gram), sharpness.output_traces(net, examples, "mse").estimate().value
    )


def test_lanczos_finds_the_ends_of_the_spectrum(x64, relu):
    net, examples, truth = relu
    dense_hessian = truth.hessian("ce").mean(0)
    values, vectors = np.linalg.eigh(dense_hessian)
    apply = sharpness.operator(net, examples.with_batch_size(6), "ce")
    top = sharpness.eigenpairs(apply, 3, steps=60, rtol=1e-10, key=KEY)
    close(top.values, values[::-1][:3], 1e-9)
    assert (top.bounds < 1e-9 * values[-1]).all()
    assert top.matvecs == apply.matvecs < 80
    assert sharpness.overlap(
        top.vectors, jnp.asarray(vectors[:, ::-1][:, :3].T)
    ) == pytest.approx(1.0)
    matrix = matrix_operator(dense_hessian)
    low = sharpness.eigenpairs(
        matrix, 1, which="smallest", steps=80, rtol=1e-10, key=KEY
    )
    close(low.values, values[:1], 1e-8)
    with pytest.raises(UsageError, match="allow more memory"):
        sharpness.eigenpairs(matrix, 1, basis_memory=10.0, key=KEY)


def test_residual_bounds_hold(x64):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(80, 80))
    matrix = matrix + matrix.T
    values = np.linalg.eigvalsh(matrix)
    got = sharpness.eigenpairs(
        matrix_operator(matrix), 5, which="magnitude", steps=12, rtol=0.0, key=KEY
    )
    away = np.abs(values[:, None] - got.values).min(axis=0)
    assert (away <= got.bounds).all()
    residual = np.asarray(got.vectors) @ matrix - got.values[:, None] * got.vectors
    close(np.linalg.norm(residual, axis=1), got.bounds, 1e-8)


def test_density_band_holds_the_smoothed_density(x64):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(150, 150)) / 150**0.5
    matrix = matrix + matrix.T
    values = np.linalg.eigvalsh(matrix)
    got = sharpness.spectral_density(
        matrix_operator(matrix), probes=8, steps=40, width=0.05, key=KEY
    )
    sigma = (got.grid[-1] - got.grid[0]) / (1 / 0.05 + 10)
    assert got.width == pytest.approx(sigma)
    gauss = np.exp(-0.5 * ((got.grid[:, None] - values) / sigma) ** 2)
    truth = gauss.mean(axis=1) / (sigma * (2 * np.pi) ** 0.5)
    inside = truth > 0.01 * truth.max()
    hits = (got.low <= truth) & (truth <= got.high)
    assert hits[inside].mean() > 0.85
    assert np.trapezoid(got.density, got.grid) == pytest.approx(1.0, abs=1e-3)
    for estimate, moment in ((got.trace, values), (got.frobenius, values**2)):
        error = abs(estimate.value - moment.sum())
        assert error < 4 * estimate.standard_error


@pytest.mark.parametrize(
    ("method", "probes", "tolerance"),
    [
        (sharpness.hutchinson, 200, 0.2),
        (sharpness.hutch_plus_plus, 60, 1e-3),
        (sharpness.xtrace, 60, 1e-3),
        (sharpness.xnystrace, 40, 1e-4),
    ],
)
def test_trace_estimators(x64, method, probes, tolerance):
    matrix, values = decaying()
    apply = matrix_operator(matrix)
    got = method(apply, matvecs=probes, key=KEY)
    assert got.matvecs == apply.matvecs == probes
    assert abs(got.value - values.sum()) <= tolerance * values.sum()
    assert abs(got.value - values.sum()) <= 5 * got.standard_error + 1e-9


@pytest.mark.parametrize("method", [sharpness.xtrace, sharpness.xnystrace])
def test_leave_one_out_estimators_are_unbiased(x64, method):
    matrix, values = decaying(20)
    draws = [
        method(matrix_operator(matrix), matvecs=6, key=jax.random.key(i)).value
        for i in range(60)
    ]
    error = np.std(draws) / 60**0.5
    assert abs(np.mean(draws) - values.sum()) < 4 * error


@pytest.mark.parametrize("name", ["xtrace", "xnystrace"])
def test_leave_one_out_estimates_are_those_of_matfree(x64, name):
    matfree = pytest.importorskip("matfree.stochtrace")
    matrix, _ = decaying()
    apply, vectors = matrix_operator(matrix), 12
    probes = {"xtrace": 2 * vectors, "xnystrace": vectors}[name]
    ours = getattr(sharpness, name)(apply, matvecs=probes, key=KEY)
    integrand = getattr(matfree, f"leave_one_out_{name}")()
    theirs = integrand(lambda v: jnp.asarray(matrix) @ v, _sphere(KEY, apply, vectors))
    close(ours.value, np.mean(theirs), 1e-9)
    widened = ours.standard_error / XTRACE_WIDENING
    close(widened, np.std(theirs, ddof=1) / vectors**0.5, 1e-6)


def test_trace_of_a_real_ggn_agrees_with_traceax(x64, relu):
    traceax = pytest.importorskip("traceax")
    lineax = pytest.importorskip("lineax")
    net, examples, truth = relu
    apply = sharpness.operator(net, examples.with_batch_size(6), "ce", "ggn")
    ours = sharpness.xtrace(apply, matvecs=20, key=KEY)
    dense_ggn = truth.ggn("ce").mean(0)
    matrix = lineax.MatrixLinearOperator(jnp.asarray(dense_ggn))
    theirs, _ = traceax.XTraceEstimator().estimate(KEY, matrix, 20)
    expected = np.trace(dense_ggn)
    assert abs(ours.value - expected) < 4 * ours.standard_error < 0.2 * expected
    assert abs(float(theirs) - expected) < 4 * ours.standard_error


def test_frobenius_norm(x64):
    matrix, values = decaying()
    got = sharpness.frobenius(matrix_operator(matrix), probes=200, key=KEY)
    assert abs(got.value - (values**2).sum()) < 4 * got.standard_error


def test_signs_know_a_diagonal_matrix_exactly(x64):
    apply = matrix_operator(np.diag(np.arange(5.0)))
    got = sharpness.hutchinson(apply, matvecs=3, key=KEY)
    assert got.value == 10
    assert got.standard_error == 0


def test_hutchinson_stops_when_told(x64):
    rng = np.random.default_rng(0)
    matrix = np.eye(60) + 0.02 * rng.normal(size=(60, 60))
    apply = matrix_operator(matrix + matrix.T)
    got = sharpness.hutchinson(apply, matvecs=1000, stop=sharpness.Stop(0.02), key=KEY)
    assert 20 <= got.matvecs < 1000
    assert got.half_width() <= 0.02 * got.value


def test_estimators_refuse_too_few_or_too_many_vectors(x64):
    apply = matrix_operator(np.eye(10))
    for method in (sharpness.hutch_plus_plus, sharpness.xtrace, sharpness.xnystrace):
        with pytest.raises(UsageError, match="at least"):
            method(apply, matvecs=2, key=KEY)
    with pytest.raises(UsageError, match="order 10"):
        sharpness.xtrace(apply, matvecs=40, key=KEY)
    with pytest.raises(UsageError, match="positive semidefinite"):
        sharpness.xnystrace(matrix_operator(-np.eye(10)), matvecs=4, key=KEY)


def test_flat_vectors_follow_the_leaves(x64, relu):
    net, _, _ = relu
    vector = jnp.arange(net.size, dtype=jnp.float64)
    direction = sharpness.as_direction(net, vector)
    close(ravel_pytree(direction)[0], vector)
