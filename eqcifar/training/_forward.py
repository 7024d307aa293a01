from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jaxtyping import Array, Float, Key, PyTree

from ..models import PRODUCTS, BatchNorm, Model


def compute_dtype(model: PyTree, precision: str) -> jnp.dtype:
    """The dtype of activations: bfloat16, or that of the parameters for "f32"."""
    if precision == "bf16":
        return jnp.dtype(jnp.bfloat16)
    parameters = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    return jnp.dtype(parameters[0].dtype)


def cast(model: Model, dtype: jnp.dtype) -> Model:
    """Round the parameters for computation; those of BatchNorm stay as they are."""

    def cast_leaf(leaf):
        return leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(
        cast_leaf, model, is_leaf=lambda node: isinstance(node, BatchNorm)
    )


def forward_train(
    model: Model,
    state: eqx.nn.State,
    inputs: Float[Array, "batch channels height width"],
    keys: Key[Array, " batch"],
    bn_group: int = 0,
    *,
    remat: bool = False,
) -> tuple[Float[Array, "batch classes"], eqx.nn.State]:
    """Apply a model to a batch in training mode.

    **Arguments:**

    - `model`: maps one example `(x, state, *, key)` to `(logits, state)`.
    - `state`: the model's state.
    - `inputs`: the batch.
    - `keys`: one for each example, for dropout.
    - `bn_group`: examples that share batch statistics; 0 for all. As every device
        had its own in data-parallel training under `pmap`, but independent of where a
        group is computed.
    - `remat`: keep for the backward pass only what convolutions and matrix products
        give, and compute the rest once more, block by block; the numbers are the same.

    **Returns:**

    Logits and new state, a mean of the groups' states.
    """
    batch = inputs.shape[0]

    def one_group(model, state, inputs, keys):
        def one_example(x, state, key):
            return model(x, state, key=key)

        apply = jax.vmap(
            one_example, in_axes=(0, None, 0), out_axes=(0, None), axis_name="batch"
        )
        return apply(inputs, state, keys)

    if remat:
        model = jax.tree.map(
            lambda node: _Rematerialised(node) if _is_block(node) else node,
            model,
            is_leaf=lambda node: node is not model and _is_block(node),
        )
        one_group = eqx.filter_checkpoint(one_group, policy=_is_product)
    if bn_group in (0, batch):
        return one_group(model, state, inputs, keys)
    inputs, keys = jax.tree.map(
        lambda a: a.reshape(batch // bn_group, bn_group, *a.shape[1:]), (inputs, keys)
    )
    groups = jax.vmap(partial(one_group, model, state))
    logits, states = groups(inputs, keys)
    return logits.reshape(batch, -1), mean_state(states)


class _Rematerialised(eqx.Module):
    """A block of a network that keeps the results of its products alone."""

    block: Callable

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return eqx.filter_checkpoint(self.block, policy=_is_product)(*args, **kwargs)


def _is_block(node: Any) -> bool:
    """Whether it is a module that normalises within it."""
    if isinstance(node, BatchNorm) or not isinstance(node, eqx.Module):
        return False
    parts = jax.tree.leaves(node, is_leaf=lambda part: isinstance(part, BatchNorm))
    return any(isinstance(part, BatchNorm) for part in parts)


def _is_product(primitive: Primitive, *_: Any, **__: Any) -> bool:
    return primitive in PRODUCTS


def mean_state(states: eqx.nn.State) -> eqx.nn.State:
    """One state of several, stacked along the first axis: the mean of each number.

    Of what is no floating-point number, such as a count, the first.
    """
    return jax.tree.map(
        lambda a: a.mean(0) if jnp.issubdtype(a.dtype, jnp.inexact) else a[0], states
    )


def forward(
    model: Model,
    state: eqx.nn.State,
    inputs: Float[Array, "batch channels height width"],
) -> Float[Array, "batch classes"]:
    """Apply a model in inference mode, as `eqx.nn.inference_mode` made it, to a batch.

    **Arguments:**

    - `model`: maps one example `(x, state)` to `(logits, state)`.
    - `state`: the model's state, which does not change.
    - `inputs`: the batch.

    **Returns:**

    The logits.
    """
    return jax.vmap(lambda x: model(x, state)[0])(inputs)
