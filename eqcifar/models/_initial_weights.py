import math
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ._conv2d import Conv2d

_Model = TypeVar("_Model")

# The standard deviation of a standard normal that is truncated at 2.
_TRUNCATED = 0.87962566103423978


def lecun_normal(model: _Model, *, key: PRNGKeyArray) -> _Model:
    """Draw the weights of all convolutions and linear layers with variance 1 / fan-in.

    From a normal distribution that is truncated at two of its standard deviations, as
    Flax, JAX and Keras do by default. LeCun et al., 1998, "Efficient BackProp",
    section 4.6.

    **Arguments:**

    - `model`: Any model of this package's and Equinox's layers.
    - `key`: For the weights.

    **Returns:**

    The model with other weights; biases and normalisations are as they were.
    """
    layers, structure = jax.tree.flatten(model, is_leaf=_is_layer)
    places = [i for i, layer in enumerate(layers) if _is_layer(layer)]
    weights = [layers[i].weight for i in places]
    drawn = _draw(key, tuple(weight.shape for weight in weights))
    for i, weight in zip(places, drawn, strict=True):
        weight = weight.astype(layers[i].weight.dtype)
        layers[i] = eqx.tree_at(lambda layer: layer.weight, layers[i], weight)
    return jax.tree.unflatten(structure, layers)


def _is_layer(node: Any) -> bool:
    return isinstance(node, Conv2d | eqx.nn.Conv | eqx.nn.Linear)


# One program, for a draw of each shape takes long to compile.
@partial(jax.jit, static_argnames="shapes")
def _draw(
    key: PRNGKeyArray, shapes: tuple[tuple[int, ...], ...]
) -> list[Float[Array, "..."]]:
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    flat = jax.random.truncated_normal(key, -2.0, 2.0, (int(ends[-1]),))
    return [
        numbers.reshape(shape) / (_TRUNCATED * math.sqrt(math.prod(shape[1:])))
        for numbers, shape in zip(jnp.split(flat, ends[:-1]), shapes, strict=True)
    ]
