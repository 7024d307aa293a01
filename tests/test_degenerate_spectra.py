"""Spectra, rises and landscapes where something is repeated, zero, single or absent."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqcifar import measurements, sharpness
from eqcifar.errors import RunError, UsageError
from eqcifar.sharpness import Examples, Network, Operator
from eqcifar.sharpness._draw import cut
from eqcifar.sharpness._leading import eigenpairs_of_halves, eigenpairs_of_mean
from eqcifar.sharpness._operator import _double

from .sharpness_tools import CLASSES, close, data, dense, network

KEY = jax.random.key(3)


def diagonal(values):
    values = jnp.asarray(values)
    return Operator(lambda v: values * v, len(values), values.dtype)


class Any(eqx.Module):
    """Logits of an image's pixels x, as a function of `theta` and x."""

    theta: jax.Array
    logits: Callable = eqx.field(static=True)

    def __call__(self, x, state, *, key=None):
        return self.logits(self.theta, jnp.ravel(x)), state


def of(theta, logits):
    model = Any(jnp.asarray(theta), logits)
    return Network(model, eqx.nn.State(model))


def small():
    """A smooth network of 36 parameters."""
    weights = np.random.default_rng(0).normal(size=(CLASSES, 12))
    return of(weights, lambda w, x: jnp.tanh(w @ x[:12]))


def constant():
    """A network with dead weights: its logits are 0 whatever the image."""
    return of(np.zeros((CLASSES, 5)), lambda w, x: 0 * w @ x[:5])


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_an_eigenvalue_comes_as_often_as_it_is_repeated(x64, loss):
    net, examples = network("linear"), data(8)
    # With f = W x + b of equal weights every class has the same p, so that the
    # Hessian is I (mse) or diag(p) - p p' (ce), times the mean of z z' for z = (x, 1).
    flat, unravel = ravel_pytree(net.params)
    net = eqx.tree_at(lambda n: n.params, net, unravel(jnp.zeros_like(flat)))
    z = np.concatenate([examples.images.reshape(8, -1), np.ones((8, 1))], axis=1)
    inner = np.eye(3) if loss == "mse" else np.eye(3) / 3 - np.ones((3, 3)) / 9
    once = np.linalg.eigvalsh(z @ z.T / 8)
    expected = np.sort(np.outer(np.linalg.eigvalsh(inner), once).ravel())[::-1]
    apply = sharpness.operator(net, examples, loss)
    for count in (1, 2, 4, 7):
        found = sharpness.eigenpairs(apply, count, rtol=1e-6, key=KEY)
        close(found.values, expected[:count], 1e-9)
        assert found.complete
        assert (np.abs(found.values - expected[:count]) <= found.bounds).all()
        close(found.vectors @ found.vectors.T, np.eye(count), 1e-5)


@pytest.mark.parametrize(
    ("values", "which", "count", "expected"),
    [
        ([-1.0] * 5 + [0.0] * 45, "largest", 5, [0.0] * 5),
        ([-1.0] * 5 + [0.0] * 45, "smallest", 7, [-1.0] * 5 + [0.0] * 2),
        ([-1.0] * 5 + [0.0] * 45, "magnitude", 6, [-1.0] * 5 + [0.0]),
        ([5.0] * 50, "largest", 3, [5.0] * 3),
        ([0.0] * 20, "magnitude", 4, [0.0] * 4),
        ([2.0], "largest", 1, [2.0]),
        ([3.0, 3.0, 1.0], "largest", 3, [3.0, 3.0, 1.0]),
        ([9.0] * 3 + list(np.linspace(0, 8.9, 60)), "largest", 4, [9.0] * 3 + [8.9]),
    ],
)
@pytest.mark.parametrize("precise", [False, True])
def test_as_many_as_asked(values, which, count, expected, precise):
    with jax.enable_x64(precise):
        apply = diagonal(np.asarray(values))
        steps = min(50, len(values))
        got = sharpness.eigenpairs(apply, count, which=which, steps=steps, key=KEY)
        tolerance = 1e-5 * max(np.abs(values).max(), 1)
        assert np.abs(got.values - expected).max() <= tolerance
        assert (np.abs(got.values - expected) <= got.bounds + 1e-12).all()


def test_more_than_there_are_is_refused():
    with pytest.raises(UsageError, match="cannot find 4 eigenpairs of a matrix of ord"):
        sharpness.eigenpairs(diagonal(np.ones(3)), 4, key=KEY)
    net = of(np.ones(3), lambda w, x: w)
    for name in ("eigenvalues", "lmax"):
        if name == "eigenvalues":
            with pytest.raises(UsageError, match=r"3 parameters.*smaller --top"):
                measurements.compute_measure(
                    net, data(4), name, "ce", probes=4, top=5, key=KEY
                )
        else:
            assert measurements.compute_measure(
                net, data(4), name, "ce", probes=4, key=KEY
            ).values


@pytest.mark.parametrize("kind", ["hess", "ggn"])
@pytest.mark.parametrize(
    "name",
    [
        "relu",
        "gelu",
        pytest.param("resnet", marks=pytest.mark.slow),
        pytest.param("vgg", marks=pytest.mark.slow),
    ],
)
def test_bounds_hold_for_the_operator_in_exact_arithmetic(name, kind):
    net, examples = network(name), data(6)
    apply = sharpness.operator(net, examples, "ce", kind)
    assert apply.dtype == jnp.float32
    found = sharpness.eigenpairs(apply, 3, rtol=1e-5, key=KEY)
    with jax.enable_x64(True):
        images = examples.images.astype(np.float64)
        truth = dense(_double(net), Examples(images, examples.labels))
    matrix = getattr(truth, {"hess": "hessian", "ggn": "ggn"}[kind])("ce").mean(0)
    expected = np.linalg.eigvalsh(matrix)[::-1][:3]
    assert (np.abs(found.values - expected) <= found.bounds).all()
    # A Rayleigh quotient in float64 is nearer still.
    close(found.values, expected, 1e-7)


def test_what_is_not_finite_is_refused():
    bad = Operator(lambda v: v * jnp.nan, 5)
    for find in (
        lambda: sharpness.eigenpairs(bad, 1, steps=3, key=KEY),
        lambda: sharpness.spectral_density(bad, probes=4, steps=3, key=KEY),
        lambda: sharpness.frobenius(bad, probes=4, key=KEY),
    ):
        with pytest.raises(RunError, match="not finite"):
            find()
    weights = np.full((CLASSES, 192), np.nan, np.float32)
    net, examples = of(weights, lambda w, x: w**2 @ x), data(4)
    for name in ("lmax", "eigenvalues", "radius", "gram", "spectrum", *LINES, *PLANES):
        with pytest.raises(RunError, match="not finite"):
            measurements.compute_measure(
                net, examples, name, "ce", probes=4, top=2, key=KEY
            )


LINES, PLANES = ("landscape", "eigenline"), ("plane", "eigenplane")
NAMES = [
    *("lmax", "eigenvalues", "radius", "gram", "spectrum", *LINES),
    # Of many points, each as those of a line.
    *(pytest.param(name, marks=pytest.mark.slow) for name in PLANES),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_network_is_flat(x64, name):
    split = data(6)
    for examples in (split, split.take(np.arange(3))):
        got = measurements.compute_measure(
            constant(), examples, name, "mse", probes=10, top=3, key=KEY
        )
        assert got.values
        for estimate in got.values.values():
            assert abs(estimate.value) < 1e-12
            assert estimate.standard_error < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_one_image_of_several_tells_no_error(x64, name):
    net, split = small(), data(5)
    one = split.take(np.arange(1))
    got = measurements.compute_measure(net, one, name, "ce", probes=4, top=2, key=KEY)
    for key, estimate in got.values.items():
        assert np.isfinite(estimate.value)
        if key != "frobenius2":  # of these images
            assert estimate.standard_error == np.inf


@pytest.mark.parametrize("name", NAMES)
def test_all_images_leave_no_error_of_their_draw(x64, name):
    net = small()
    got = measurements.compute_measure(
        net, data(5), name, "ce", probes=4, top=2, key=KEY
    )
    for estimate in got.values.values():
        assert estimate.data_error == estimate.bias == 0


def test_one_class(x64):
    net, examples = of(np.ones((1, 192)), lambda w, x: w @ x), data(4)
    examples = Examples(examples.images, np.zeros(4, int))
    x = examples.images.reshape(4, -1)

    def find(name, loss):
        return measurements.compute_measure(
            net, examples, name, loss, probes=4, key=KEY
        ).values

    close(find("lmax", "mse")["lmax"].value, np.linalg.eigvalsh(x @ x.T / 4)[-1])
    # The softmax of one logit is 1: a flat loss.
    assert abs(find("lmax", "ce")["lmax"].value) < 1e-12
    gram = find("gram", "ce")
    values = np.linalg.eigvalsh(x @ x.T / 4)
    close(gram["lmax_ntk"].value, values[-1])
    close(gram["rank_ntk"].value, values.sum() ** 2 / (values**2).sum())


def test_a_single_scalar_parameter(x64):
    net, examples = of(1.3, lambda t, x: t * x[:CLASSES]), data(4)
    x = examples.images.reshape(4, -1)[:, :CLASSES]
    curvature = (x**2).sum(1).mean()
    find = lambda name, **more: measurements.compute_measure(  # noqa: E731
        net, examples, name, "mse", probes=4, key=KEY, **more
    )
    close(find("lmax").values["lmax"].value, curvature)
    got = find("eigenvalues", top=1)
    close([e.value for e in got.values.values()], [curvature] * 2)
    close(find("eigenline").values["eigenline"].value, 0.125 * curvature)
    with pytest.raises(UsageError, match="two parameters"):
        find("eigenplane")
    # A scale does not move, so nothing rises.
    assert find("landscape").values["line"].value == 0
    assert find("plane").values["plane"].value == 0
    close(find("radius").values["average"].value, 0.5 * 0.05**2 * curvature, 1e-6)
    close(find("spectrum").values["frobenius2"].value, curvature**2)
    assert sharpness.filter_normalised(net, KEY).theta == 0


@pytest.mark.parametrize("value", [1000.0, -2.0, 0.0, 1e-30])
def test_the_density_of_one_value_integrates_to_one(value):
    got = sharpness.spectral_density(diagonal(np.full(50, value)), probes=4, key=KEY)
    assert np.trapezoid(got.density, got.grid) == pytest.approx(1.0, abs=1e-3)
    middle = (got.density * got.grid).sum() / got.density.sum()
    assert middle == pytest.approx(value, rel=1e-3, abs=1e-9 + got.width)
    assert got.trace.value == pytest.approx(50 * value, rel=1e-5)
    assert got.frobenius.value == pytest.approx(50 * value**2, rel=1e-5)


def test_known_eigenpairs_take_the_noise_from_a_norm(x64):
    rng = np.random.default_rng(0)
    values = np.concatenate([[50.0, 20.0, 10.0], rng.uniform(0, 0.3, 97)])
    basis = np.linalg.qr(rng.normal(size=(100, 100)))[0]
    matrix = jnp.asarray((basis * values) @ basis.T)
    apply, truth = Operator(lambda v: matrix @ v, 100), (values**2).sum()
    known = sharpness.eigenpairs(apply, 3, rtol=1e-8, key=KEY)
    plain = sharpness.frobenius(apply, probes=8, key=KEY)
    better = sharpness.frobenius(apply, probes=8, known=known, key=KEY)
    assert better.standard_error < 1e-3 * plain.standard_error
    assert abs(better.value - truth) < 4 * better.standard_error
    density = sharpness.spectral_density(apply, probes=4, known=known, key=KEY)
    for estimate, sum_of in ((density.frobenius, truth), (density.trace, values.sum())):
        assert abs(estimate.value - sum_of) < 5 * estimate.standard_error
        assert estimate.standard_error < 0.01 * sum_of


def dense_operator(matrix):
    held = jnp.asarray(matrix)
    return Operator(lambda v: held @ v, len(held), held.dtype)


def symmetric(rng, size, count):
    made = rng.normal(size=(count, size, size))
    return made + made.swapaxes(1, 2)


@pytest.mark.parametrize("repeated", [1, 2, 3])
def test_eigenpairs_of_a_mean_are_found_from_those_of_a_part(x64, repeated):
    rng, size = np.random.default_rng(0), 60
    values = np.concatenate([[9.0] * repeated, rng.uniform(-1, 5, size - repeated)])
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    noise = symmetric(rng, size, 8) * 0.1
    matrices = (basis * values) @ basis.T + noise - noise.mean(0)
    parts = [dense_operator(matrix) for matrix in matrices]
    shares = np.full(8, 1 / 8)
    options = {"steps": 60, "rtol": 1e-8, "work": (0, 1), "key": KEY}
    for count in (1, 3):
        found = eigenpairs_of_mean(parts, shares, count, **options)
        expected = np.sort(values)[::-1][:count]
        close(found.values, expected, 1e-9)
        assert (np.abs(found.values - expected) <= found.bounds + 1e-12).all()
        close(found.vectors @ found.vectors.T, np.eye(count), 1e-6)


def test_eigenpairs_of_halves_near_those_of_the_mean(x64):
    rng, size, count = np.random.default_rng(0), 40, 3
    noise = 0.02 * symmetric(rng, size, 8)
    matrices = np.diag([3.0, 3.0, 2.9] + [0.5] * 37) + noise
    parts = [dense_operator(matrix) for matrix in matrices]
    shares, cuts = np.full(8, 1 / 8), cut(8)
    options = {"steps": 40, "rtol": 1e-9, "work": (0, 1), "key": KEY}
    found = eigenpairs_of_mean(parts, shares, count, **options)
    for part in parts:
        part.matvecs = 0
    halves = eigenpairs_of_halves(parts, cuts.shares, found, count, work=(0, 1))
    assert [part.matvecs for part in parts] == [count] * 8
    for at in np.ndindex(7, 2):
        half = np.einsum("g,gij->ij", cuts.shares[at], matrices)
        expected = np.linalg.eigvalsh(half)[::-1][:count]
        first_order = found.vectors @ half @ found.vectors.T
        missed = expected - np.linalg.eigvalsh(first_order)[::-1]
        assert (np.abs(halves.values[at] - expected) < 0.4 * missed).all()
        vectors = halves.vectors(*at)
        close(vectors @ vectors.T, np.eye(count), 1e-9)
        close(np.einsum("kp,pq,kq->k", vectors, half, vectors), expected, 1e-2)
    zero = [Operator(lambda v: 0 * v, size) for _ in range(8)]
    found = eigenpairs_of_mean(zero, shares, 2, **options)
    halves = eigenpairs_of_halves(zero, cuts.shares, found, 2, work=(0, 1))
    assert (halves.values == 0).all()


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan])
def test_a_ball_has_a_radius(radius):
    net, examples = network("relu"), data(4)
    with pytest.raises(UsageError, match="radius must be positive"):
        sharpness.sam_sharpness(net, examples, "ce", radius=radius)
    with pytest.raises(UsageError, match="radius must be positive"):
        sharpness.average_sharpness(
            net, examples, "ce", radius=radius, probes=4, key=KEY
        )
    direction = sharpness.filter_normalised(net, KEY)
    with pytest.raises(UsageError, match="positive reach"):
        sharpness.landscape(net, examples, [direction], "ce", reach=radius)


def test_dead_filters_have_no_direction(x64):
    net = network("relu")
    flat, unravel = ravel_pytree(net.params)
    dead = eqx.tree_at(lambda n: n.params, net, unravel(jnp.zeros_like(flat)))
    direction = ravel_pytree(sharpness.filter_normalised(dead, KEY))[0]
    assert (direction == 0).all()
