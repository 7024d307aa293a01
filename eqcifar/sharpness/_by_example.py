"""Measures that are a mean over examples of what one or two passes forward tell."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqcifar.errors import UsageError
from eqcifar.losses import AnyLoss, Loss, get_loss
from eqcifar.parallel import jit

from ._examples import Batch, Examples, stream
from ._network import Network

_CLASSIFIER = "classifier.weight"


@jit
def _margins(network: Network, batch: Batch) -> dict[str, Array]:
    logits = network(network.params, batch.images)
    of_label = jnp.take_along_axis(logits, batch.labels[:, None], 1)[:, 0]
    classes = jnp.arange(logits.shape[1], dtype=batch.labels.dtype)
    own = classes == batch.labels[:, None]
    others = jnp.where(own, -jnp.inf, logits).max(axis=1)
    return {"margin": of_label - others}


def margins(network: Network, examples: Examples) -> Float[np.ndarray, " examples"]:
    """Each example's logit of the label less the largest of the others."""
    return stream(lambda batch: _margins(network, batch), examples)["margin"]


@jit
def _radial_slopes(network: Network, loss: Loss, batch: Batch) -> dict[str, Array]:
    def losses(params):
        return jax.vmap(loss)(network(params, batch.images), batch.labels)

    return {"slope": jax.jvp(losses, (network.params,), (network.params,))[1]}


def radial_slopes(
    network: Network, examples: Examples, loss: AnyLoss
) -> Float[np.ndarray, " examples"]:
    """Each example's theta . dl/dtheta: the slope of its loss along the parameters."""
    loss = get_loss(loss)
    return stream(lambda batch: _radial_slopes(network, loss, batch), examples)["slope"]


@jit
def _flatness(network: Network, loss: Loss, batch: Batch) -> dict[str, Array]:
    paths = jax.tree_util.tree_leaves_with_path(network.params)
    names = [jax.tree_util.keystr(p, simple=True, separator=".") for p, _ in paths]
    leaves, structure = jax.tree.flatten(network.params)
    at = names.index(_CLASSIFIER)
    weight = leaves[at]

    def logits_of(rows):
        # Of each example its own, for a gradient of each.
        def one(image, row):
            inside = jax.tree.unflatten(
                structure, [*leaves[:at], weight + row, *leaves[at + 1 :]]
            )
            return network(inside, image[None])[0]

        return jax.vmap(one)(batch.images, rows)

    rows = jnp.zeros((len(batch.images), *weight.shape), weight.dtype)
    logits, pull = jax.vjp(logits_of, rows)
    first = jnp.zeros_like(logits).at[:, 0].set(1)
    # Row 0 of the classifier times its input is logit 0.
    squares = jnp.sum(pull(first)[0][:, 0] ** 2, axis=1)

    def curved(logit, label):
        columns = jnp.eye(len(logit), dtype=logit.dtype)
        return jax.vmap(lambda v: loss.hessian_product(logit, label, v))(columns)

    with jax.default_matmul_precision("highest"):
        inner = weight @ weight.T
    curvature = jnp.sum(jax.vmap(curved)(logits, batch.labels) * inner, axis=(1, 2))
    return {"flatness": squares * curvature}


def relative_flatness(
    network: Network, examples: Examples, loss: AnyLoss
) -> Float[np.ndarray, " examples"]:
    """Each example's part of the relative flatness of the classifier.

    ||phi||^2 tr(W' (d2l/df2) W), of the features phi that the classifier W takes.

    **Raises:**

    `UsageError` for a network without an array `classifier.weight`.
    """
    loss = get_loss(loss)
    if _CLASSIFIER not in network.leaves:
        raise UsageError(
            "relative flatness is of a linear layer named classifier, which this "
            "network does not have"
        )
    return stream(lambda batch: _flatness(network, loss, batch), examples)["flatness"]
