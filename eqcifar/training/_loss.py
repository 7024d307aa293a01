from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ..errors import UsageError

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


def find_loss(loss: str | Loss) -> Loss:
    """The function that a name stands for; a function is returned as it is.

    **Raises:**

    `UsageError` for a name that is none of `LOSSES`, such as `loss_name` gives to a
    function of one's own.
    """
    if not isinstance(loss, str):
        return loss
    if loss not in LOSSES:
        raise UsageError(
            f"no loss {loss!r} here: choose {' or '.join(LOSSES)}, or, in Python, give "
            "the function itself"
        )
    return LOSSES[loss]


def loss_name(loss: Loss) -> str:
    """What a configuration calls a loss: `module.name` of one that is not ours."""
    for name, function in LOSSES.items():
        if loss is function:
            return name
    name = getattr(loss, "__qualname__", type(loss).__qualname__)
    return f"{loss.__module__}.{name}"
