"""A random direction of each example's own, at about the price of one for all."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from eqcifar.models import Conv2d

from ._network import Network, second_order

# These very classes: a subclass may do anything with its weight.
LAYERS = {
    *(eqx.nn.Conv, eqx.nn.Conv1d, eqx.nn.Conv2d, eqx.nn.Conv3d),
    *(Conv2d, eqx.nn.Linear),
}


def flipped_directional(
    network: Network,
    images: Float[Array, "batch ..."],
    vector: PyTree,
    signs: Float[Array, "batch signs"],
) -> tuple[
    Float[Array, "batch classes"],
    Float[Array, "batch classes"],
    Float[Array, "batch classes"],
]:
    """Return f, df[v_i] and d2f[v_i, v_i] of a batch: `vector` with signs of example i.

    Of the weight V of a convolution or linear layer, example i has V o (r_i s_i'), with
    a sign for each output and each input. Its product with x is r_i times that of V
    with s_i x, so the filters stay common to all. A vector, such as a bias or the
    scales of a normalisation, has a sign for each entry; other arrays have none.

    Independent symmetric entries stay so under any signs: E[v_i v_i'] = I, and each
    v_i'A v_i has the law that it has without. But examples become nearly uncorrelated,
    so that their errors average out.
    Flipout: Wen et al., 2018, https://arxiv.org/abs/1803.04386

    **Arguments:**

    - `vector`: in the shape of the parameters.
    - `signs`: as many an example as `sign_count` says: for each layer those of
        outputs, inputs and bias, in the order of the parameters.
    """

    def at(t: Array) -> Array:
        return network.run(lambda row: _moved(network, vector, t, row), images, signs)

    zero = jnp.zeros((), images.dtype)
    return second_order(at, zero, jnp.ones_like(zero))


def sign_count(network: Network) -> int:
    """How many signs an example takes."""
    return sum(_sizes(network.model))


def can_flip(network: Network, images: Float[Array, "batch ..."]) -> bool:
    """Whether examples can have signs of their own.

    Not under batch statistics, where they have one loss together, and not where a model
    reads the weight of a layer instead of calling the layer.
    """
    if network.batch_statistics:
        return False
    signs = jax.ShapeDtypeStruct((len(images), sign_count(network)), images.dtype)
    try:
        eqx.filter_eval_shape(
            flipped_directional, network, images, network.params, signs
        )
    except AttributeError:
        return False
    return True


class _Moved(eqx.Module):
    """A layer whose weight has moved by t V o (r s'), for t = 0 and its derivatives."""

    layer: Any
    along: Any
    t: Array
    outputs: Array
    inputs: Array

    def __call__(self, x: Array, *, key: Any = None) -> Array:
        rise = _rise(self.t, x, self.along, self.outputs, self.inputs)
        return self.layer(x) + rise


def _product(x: Array, along: Any, outputs: Array, inputs: Array) -> Array:
    last = getattr(along, "channels_last", False)

    def spread(signs: Array) -> Array:
        return signs if last else jnp.expand_dims(signs, range(1, x.ndim))

    return spread(outputs) * along(spread(inputs) * x)


@jax.custom_jvp
def _rise(t: Array, x: Array, along: Any, outputs: Array, inputs: Array) -> Array:
    # t times the product, at t = 0. The rule spares computing what t = 0 removes.
    like = jax.eval_shape(_product, x, along, outputs, inputs)
    return jnp.zeros(like.shape, like.dtype)


@_rise.defjvp
def _(primals, tangents):
    t, x, *signs = primals
    dt, dx, *_ = tangents
    slope = dt * _product(x, *signs) + _rise(t, dx, *signs)
    return _rise(*primals), slope


def _is_layer(node: Any) -> bool:
    # Of a grouped convolution, the inputs of a weight are not those of the layer.
    return (
        type(node) in LAYERS
        and eqx.is_array(node.weight)  # of a shared one, the place is empty
        and node.weight.ndim > 1
        and getattr(node, "groups", 1) == 1
    )


def _is_vector(node: Any) -> bool:
    return eqx.is_inexact_array(node) and node.size == max(node.shape, default=1)


def _sizes(model: Any) -> list[int]:
    sizes = []
    for node in jax.tree.leaves(model, is_leaf=_is_layer):
        if _is_layer(node):
            bias = 0 if node.bias is None else node.bias.size
            sizes.append(sum(node.weight.shape[:2]) + bias)
        else:
            sizes.append(node.size if _is_vector(node) else 0)
    return sizes


def _moved(network: Network, vector: PyTree, t: Array, row: Array) -> Any:
    """The model at theta + t v_i."""
    model, along = network.model, network.along(vector)
    rows = jnp.split(row, np.cumsum(_sizes(model))[:-1])

    def move(node: Any, direction: Any, signs: Array) -> Any:
        if _is_layer(node):
            outputs, inputs = node.weight.shape[:2]
            if node.bias is not None:
                rise = t * _signed(direction.bias, signs[outputs + inputs :])
                node = eqx.tree_at(lambda x: x.bias, node, node.bias + rise)
                direction = eqx.tree_at(
                    lambda x: x.bias, direction, jnp.zeros_like(rise)
                )
            ends = signs[:outputs], signs[outputs : outputs + inputs]
            return _Moved(node, direction, t, *ends)
        if not eqx.is_inexact_array(node):
            return node
        return node + t * (_signed(direction, signs) if _is_vector(node) else direction)

    structure = jax.tree.structure(model, is_leaf=_is_layer)
    return jax.tree.map(
        move, model, along, jax.tree.unflatten(structure, rows), is_leaf=_is_layer
    )


def _signed(vector: Array, signs: Array) -> Array:
    return vector * signs.reshape(vector.shape)
