from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..models import BatchNorm

Model = Callable[..., tuple[Float[Array, " classes"], eqx.nn.State]]


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
    key: PRNGKeyArray,
    bn_group: int = 0,
) -> tuple[Float[Array, "batch classes"], eqx.nn.State]:
    """Apply a model to a batch in training mode.

    **Arguments:**

    - `model`: maps one example `(x, state, *, key)` to `(logits, state)`.
    - `state`: the model's state.
    - `inputs`: the batch.
    - `key`: split over the examples, for dropout.
    - `bn_group`: examples that share batch statistics; 0 for all. As every device
        had its own in data-parallel training under `pmap`, but independent of where a
        group is computed.

    **Returns:**

    Logits and new state, a mean of the groups' states.
    """
    batch = inputs.shape[0]
    keys = jax.random.split(key, batch)

    def one_group(inputs, keys):
        def one_example(x, state, key):
            return model(x, state, key=key)

        apply = jax.vmap(
            one_example, in_axes=(0, None, 0), out_axes=(0, None), axis_name="batch"
        )
        return apply(inputs, state, keys)

    if bn_group in (0, batch):
        return one_group(inputs, keys)
    inputs, keys = jax.tree.map(
        lambda a: a.reshape(batch // bn_group, bn_group, *a.shape[1:]), (inputs, keys)
    )
    logits, states = jax.vmap(one_group)(inputs, keys)
    state = jax.tree.map(
        lambda a: a.mean(0) if jnp.issubdtype(a.dtype, jnp.inexact) else a[0], states
    )
    return logits.reshape(batch, -1), state


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
