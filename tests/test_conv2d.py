"""The quick convolution is the plain one: values and derivatives, in float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import models
from eqcifar.models import Conv2d
from eqcifar.models._conv2d import conv2d

pytestmark = pytest.mark.usefixtures("x64")


class ChannelsLast(eqx.Module):
    layer: eqx.nn.Conv2d

    def __call__(self, x):
        return jnp.moveaxis(self.layer(jnp.moveaxis(x, -1, 0)), 0, -1)


def plain(layer):
    """The same layer as Equinox has it."""
    out_channels, in_channels, size, _ = layer.weight.shape
    twin = eqx.nn.Conv2d(
        in_channels,
        out_channels,
        size,
        stride=layer.stride,
        padding=layer.padding,
        use_bias=layer.bias is not None,
        key=jax.random.key(0),
    )
    bias = None if layer.bias is None else layer.bias[:, None, None]
    twin = eqx.tree_at(
        lambda x: (x.weight, x.bias),
        twin,
        (layer.weight, bias),
        is_leaf=lambda x: x is None,
    )
    return ChannelsLast(twin) if layer.channels_last else twin


def close(ours, theirs, tolerance):
    # Of all arrays together: biases before BatchNorm have a gradient of zero.
    largest = max(abs(b).max() for b in jax.tree.leaves(theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(
            a, b.reshape(a.shape), rtol=0, atol=tolerance * largest
        )


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "height", "width"),
    [
        (3, 1, None, 2, 2),
        (3, 1, None, 1, 2),
        (3, 1, None, 5, 4),
        (3, 2, None, 5, 4),
        (1, 2, None, 5, 4),
        (1, 1, None, 2, 2),
        (2, 1, 0, 5, 4),
        (2, 1, 0, 2, 2),
        (3, 1, 2, 2, 2),
        (3, 2, "SAME", 5, 4),
        (3, 1, "SAME", 5, 4),
    ],
)
@pytest.mark.parametrize("make", [Conv2d, conv2d])
def test_is_equinox_convolution(make, kernel_size, stride, padding, height, width):
    keys = jax.random.split(jax.random.key(1), 4)
    ours = make(
        3, 4, kernel_size, stride=stride, padding=padding, use_bias=True, key=keys[0]
    )
    bias = jax.random.normal(keys[1], (4,))
    ours = eqx.tree_at(lambda layer: layer.bias, ours, bias)
    x = jax.random.normal(keys[2], (2, height, width, 3))
    x = x if ours.channels_last else jnp.moveaxis(x, -1, 1)

    def both_ways(layer):
        call = lambda layer, x: jax.vmap(layer)(x)  # noqa: E731
        arrays, static = eqx.partition(layer, eqx.is_array)
        function = lambda arrays, x: call(eqx.combine(arrays, static), x)  # noqa: E731
        y, pull = jax.vjp(function, arrays, x)
        push = jax.jvp(function, (arrays, x), (arrays, jnp.sin(x)))[1]
        return y, pull(jnp.cos(y)), push

    both_ways = eqx.filter_jit(both_ways)
    close(both_ways(ours), both_ways(plain(ours)), 1e-14)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("vgg11", marks=pytest.mark.slow),
        pytest.param("resnet18", marks=pytest.mark.slow),
        "wrn10-1",
    ],
)
def test_first_gradients_of_networks(name):
    model, state = models.create(name, width=1 / 16, key=jax.random.key(2))
    x = jax.random.normal(jax.random.key(3), (3, 3, 32, 32))

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model):
        apply = jax.vmap(
            model, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
        )
        return jnp.sum(jnp.sin(apply(x, state)[0]))

    is_ours = lambda node: isinstance(node, Conv2d)  # noqa: E731
    twin = jax.tree.map(
        lambda node: plain(node) if is_ours(node) else node, model, is_leaf=is_ours
    )
    close(gradient(model), gradient(twin), 1e-10)


@pytest.mark.parametrize(("kernel_size", "stride", "size"), [(3, 1, 2), (3, 2, 5)])
def test_bfloat16_is_within_its_rounding(kernel_size, stride, size):
    keys = jax.random.split(jax.random.key(4), 2)
    layer = conv2d(16, 8, kernel_size, stride=stride, key=keys[0])
    x = jax.random.normal(keys[1], (4, size, size, 16))
    narrow = lambda tree: jax.tree.map(lambda a: a.astype(jnp.bfloat16), tree)  # noqa: E731
    wide = lambda tree: jax.tree.map(lambda a: a.astype(float), tree)  # noqa: E731

    def both_ways(layer, x):
        y, pull = jax.vjp(lambda layer, x: jax.vmap(layer)(x), layer, x)
        return y, pull(y)

    arrays, static = eqx.partition(layer, eqx.is_array)
    ours = both_ways(eqx.combine(narrow(arrays), static), narrow(x))
    # The same rounded weights and images, computed in float64.
    exact = both_ways(plain(eqx.combine(wide(narrow(arrays)), static)), wide(narrow(x)))
    assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {jnp.dtype("bfloat16")}
    # Two roundings of a unit of 2^-8 at most, and some of smaller terms.
    close(wide(ours), exact, 2**-6)
