"""The primitives of two sums against JAX's own, and BatchNorm's derivatives by them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar.models._batch_norm import batch_norm
from eqcifar.models._pair import pair_spread, pair_sums

pytestmark = pytest.mark.usefixtures("x64")

BATCH = {"axis_name": "batch", "in_axes": (0, None), "out_axes": (0, None)}


def close(ours, theirs, tolerance=1e-12):
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def every_derivative(function, at, along):
    """Values and both ways to second derivatives that the package takes."""

    def scalar(*args):
        return jnp.sum(
            jnp.sin(jnp.concatenate([jnp.ravel(y) for y in function(*args)]))
        )

    def slope(*args):
        return jax.jvp(scalar, args, along)[1]

    def run(at, along):
        gradient = jax.grad(scalar, tuple(range(len(at))))
        return (
            function(*at),
            jax.jvp(gradient, at, along),
            jax.jvp(slope, at, along),
        )

    return jax.jit(run)(at, along)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 2), (5,)])
def test_as_jax_sums_and_broadcasts(shape, axis):
    others = tuple(i for i in range(len(shape)) if i != axis % len(shape))
    vectors = normal(0, 2, shape[axis]), normal(1, 2, shape[axis])
    arrays = normal(2, 6, *shape), normal(3, 6, *shape)

    def ours(a, b, x, y):
        # Groups of examples, with vectors of their own, as in `bn_group`.
        def one(a, b, x, y):
            a, b = pair_spread(a, b, x, axis)
            return pair_sums(a * x, b * x * y, axis)

        group = jax.vmap(one, in_axes=(None, None, 0, 0))
        pairs = [each.reshape(2, 3, *shape) for each in (x, y)]
        return jax.vmap(group)(a, b, *pairs)

    def theirs(a, b, x, y):
        def one(a, b, x, y):
            a, b = (jnp.expand_dims(each, others) for each in (a, b))
            return jnp.sum(a * x, others), jnp.sum(b * x * y, others)

        group = jax.vmap(one, in_axes=(None, None, 0, 0))
        pairs = [each.reshape(2, 3, *shape) for each in (x, y)]
        return jax.vmap(group)(a, b, *pairs)

    at = (*vectors, *arrays)
    along = tuple(jnp.cos(each) for each in at)
    close(every_derivative(ours, at, along), every_derivative(theirs, at, along))


def test_eagerly_and_one_of_two():
    x = normal(0, 4, 3, 2)
    sums = pair_sums(x, 2 * x, -1)
    close(sums, (x.sum((0, 1)), 2 * x.sum((0, 1))))
    # The other's cotangent is a symbolic zero.
    gradient = jax.grad(lambda x: pair_sums(x, jnp.sin(x), 1)[1][0])(x)
    close(gradient, jnp.cos(x) * jnp.array([1.0, 0, 0])[:, None])
    gradient = jax.grad(lambda a: jnp.sum(x * pair_spread(a, a, x, 0)[0]))(x[:, 0, 0])
    close(gradient, x.sum((1, 2)))


def test_every_derivative_of_batch_norm():
    x, weight, bias = 3 + 2 * normal(0, 5, 4, 2, 3), 1 + normal(1, 3), normal(2, 3)
    norm, state = eqx.nn.make_with_state(batch_norm)(3)

    def ours(x, weight, bias):
        layer = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (weight, bias))
        y, moved = jax.vmap(layer, **BATCH)(x, state)
        return y, moved.get(norm.running_mean), moved.get(norm.running_var)

    def theirs(x, weight, bias):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean) / jnp.sqrt(var + 1e-5) * weight + bias
        return y, 0.1 * mean, 0.9 + 0.1 * var

    at = x, weight, bias
    along = tuple(jnp.cos(each) for each in at)
    close(every_derivative(ours, at, along), every_derivative(theirs, at, along))
