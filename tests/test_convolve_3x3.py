"""The convolution by Winograd's algorithm is the plain one: values and derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from eqcifar import parallel
from eqcifar.models.fast import convolve_3x3

# As many as the algorithm wants, and fewer.
MANY, FEW = 32, 3


def plain(x, weight):
    layout = "NHWC", "OIHW", "NHWC"
    padding = [(1, 1), (1, 1)]
    images = x.reshape(-1, *x.shape[-3:])
    y = lax.conv_general_dilated(
        images, weight, (1, 1), padding, dimension_numbers=layout
    )
    return y.reshape(*x.shape[:-1], y.shape[-1])


def normal(seed, *shape, dtype=None):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def inputs(height, width, in_channels=MANY, out_channels=MANY, batch=(2,), dtype=None):
    x = normal(0, *batch, height, width, in_channels, dtype=dtype)
    return x, normal(1, out_channels, in_channels, 3, 3, dtype=dtype)


def close(ours, theirs, tolerance):
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        largest = tolerance * float(abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=largest)


def every_derivative(convolve, *at):
    """The value, both ways to first derivatives, and ways to second ones."""
    along = jax.tree.map(jnp.sin, at)

    def scalar(*args):
        return jnp.sum(jnp.sin(convolve(*args) / 20))

    def slope(*args):
        return jax.jvp(scalar, args, along)[1]

    def run(at):
        gradient = jax.grad(scalar, (0, 1))
        steepness = lambda *at: sum(jnp.sum(jnp.sin(g)) for g in gradient(*at))  # noqa: E731
        return (
            convolve(*at),
            jax.jvp(gradient, at, along),
            jax.jvp(slope, at, along),
            jax.grad(slope, (0, 1))(*at),
            jax.grad(steepness, (0, 1))(*at),
        )

    return jax.jit(run)(at)


def convolutions(function, *args):
    return jax.jit(function).lower(*args).as_text().count("stablehlo.convolution")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("height", "width", "in_channels", "out_channels"),
    [
        (4, 8, MANY, MANY + 1),
        (7, 1, MANY + 1, MANY),
        (2, 1, FEW, MANY),
        (5, 4, MANY, FEW),
    ],
)
def test_every_derivative_is_that_of_the_plain_convolution(
    height, width, in_channels, out_channels
):
    at = inputs(height, width, in_channels, out_channels)
    close(every_derivative(convolve_3x3, *at), every_derivative(plain, *at), 1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_none_or_several_axes_of_examples(batch):
    at = inputs(4, 5, batch=batch)
    close(every_derivative(convolve_3x3, *at), every_derivative(plain, *at), 1e-12)


def gradients(convolve, *at):
    return jax.grad(lambda *args: jnp.sum(jnp.sin(convolve(*args))), (0, 1))(*at)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [5, 2])
@pytest.mark.parametrize("axes", [(1, None), (None, 1)])
def test_gradients_of_each_under_vmap(axes, size):
    x, weight = inputs(size, size)
    if axes[1] is not None:
        weight = jnp.stack([weight, jnp.cos(weight)], axes[1])
    ours, theirs = (
        jax.jit(jax.vmap(partial(gradients, convolve), in_axes=axes))(x, weight)
        for convolve in (convolve_3x3, plain)
    )
    close(ours, theirs, 1e-12)


@pytest.mark.usefixtures("x64")
def test_jacobian():
    x, weight = inputs(4, 4, batch=(1,))

    def jacobian(convolve):
        results = lambda *args: jnp.mean(convolve(*args), (0, 1, 2))[:3]  # noqa: E731
        return jax.jit(jax.jacrev(results, (0, 1)))(x, weight)

    close(jacobian(convolve_3x3), jacobian(plain), 1e-12)


def test_each_algorithm_is_used_where_it_is_quick():
    gradient = partial(gradients, convolve_3x3)
    assert convolutions(gradient, *inputs(8, 8)) == 0
    assert convolutions(gradient, *inputs(2, 2, FEW, FEW)) == 0
    assert convolutions(gradient, *inputs(8, 8, MANY, FEW)) == 3
    assert convolutions(gradient, *inputs(8, 8, dtype=jnp.bfloat16)) == 3
    elsewhere = (
        jax.jit(gradient).trace(*inputs(8, 8)).lower(lowering_platforms=("cuda",))
    )
    assert elsewhere.as_text().count("stablehlo.convolution") == 3


def test_other_types_are_refused_at_once():
    x, weight = inputs(4, 4)
    message = "float32, 32 channels to 32, cannot convolve bfloat16 of 32 channels"
    with pytest.raises(TypeError, match=message):
        convolve_3x3(x.astype(jnp.bfloat16), weight)


def test_rounding_errors_are_small_in_float32():
    at = inputs(8, 8, 64, 64, dtype=jnp.float32)
    gradient = normal(2, 2, 8, 8, 64, dtype=jnp.float32)

    def both_ways(convolve, *args):
        y, pull = jax.vjp(convolve, *args[:2])
        return y, *pull(args[2])

    ours = both_ways(convolve_3x3, *at, gradient)
    with jax.enable_x64(True):
        exact = [np.asarray(a, np.float64) for a in (*at, gradient)]
        exact = both_ways(plain, *map(jnp.asarray, exact))
        for a, b in zip(ours, exact, strict=True):
            difference = np.linalg.norm(np.asarray(a) - np.asarray(b))
            assert difference < 5e-6 * np.linalg.norm(b)


@pytest.mark.usefixtures("x64")
def test_on_several_devices_as_on_one():
    x, weight = inputs(4, 4, batch=(len(jax.devices()),))
    mesh = parallel.make_mesh()
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(mesh.axis_names[0])))
    whole = jax.device_put(weight, NamedSharding(mesh, PartitionSpec()))
    close(
        every_derivative(convolve_3x3, split, whole),
        every_derivative(convolve_3x3, x, weight),
        1e-12,
    )
