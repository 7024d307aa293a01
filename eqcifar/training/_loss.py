from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Loss = Callable[[Float[Array, " classes"], Float[Array, " classes"]], Float[Array, ""]]


def squared_error(
    logits: Float[Array, " classes"], target: Float[Array, " classes"]
) -> Float[Array, ""]:
    """Squared error of one example, `0.5 * ||logits - target||^2`.

    **Arguments:**

    - `logits`: output of the network.
    - `target`: one-hot label, or a mixture of labels.

    **Returns:**

    The loss of this example; whoever averages says over what.

    See Hui & Belkin 2021, arXiv:2006.07322.
    """
    return jnp.sum(optax.l2_loss(logits, target))


def cross_entropy(
    logits: Float[Array, " classes"], target: Float[Array, " classes"]
) -> Float[Array, ""]:
    """Softmax cross-entropy of one example, `-sum_c target_c log softmax(logits)_c`.

    **Arguments:**

    - `logits`: output of the network.
    - `target`: one-hot label, or a mixture of labels.

    **Returns:**

    The loss of this example in nats.
    """
    return optax.softmax_cross_entropy(logits, target)


LOSSES: dict[str, Loss] = {"mse": squared_error, "ce": cross_entropy}
