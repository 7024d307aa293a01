"""Losses of one example, and roots of their Hessians in the logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eqcifar.errors import UsageError

# loss(logits of one example, its label) -> scalar
Loss = Callable[[Array, Array], Array]


def mse(logits: Float[Array, " classes"], label: Int[Array, ""]) -> Float[Array, ""]:
    """Half the squared distance to the one-hot label: 0.5 ||f - e_y||^2."""
    target = jax.nn.one_hot(label, logits.shape[0], dtype=logits.dtype)
    return 0.5 * jnp.sum(jnp.square(logits - target))


def ce(logits: Float[Array, " classes"], label: Int[Array, ""]) -> Float[Array, ""]:
    """Softmax cross-entropy: -log softmax(f)_y."""
    target = jax.nn.one_hot(label, logits.shape[0], dtype=logits.dtype)
    return -jnp.vdot(target, jax.nn.log_softmax(logits))


losses: dict[str, Loss] = {"mse": mse, "ce": ce}


def get_loss(loss: str | Loss) -> Loss:
    """Look a loss up by name; a function of (logits, label) is returned as it is."""
    if not isinstance(loss, str):
        return loss
    if loss not in losses:
        names = ", ".join(losses)
        raise UsageError(f"Unknown loss {loss!r}: choose one of {names}.")
    return losses[loss]


def root_product(
    loss: Loss,
    logits: Float[Array, " classes"],
    label: Int[Array, ""],
    vector: Float[Array, " classes"],
) -> Float[Array, " classes"]:
    """Multiply by a root B of the loss's Hessian in the logits, B B' = d2l/df2.

    For `mse` B = I. For `ce`, with p the softmax, d2l/df2 = diag(p) - p p' =
    sum_c p_c (e_c - p)(e_c - p)', so B = (I - p 1') diag(sqrt p): no difference of
    near-equal numbers, so confident predictions keep their digits in float32. Any
    other loss must be convex in the logits, and goes through an eigendecomposition.
    """
    if loss is mse:
        return vector
    if loss is ce:
        p = jax.nn.softmax(logits)
        scaled = jnp.sqrt(p) * vector
        return scaled - p * jnp.sum(scaled)
    values, basis = jnp.linalg.eigh(jax.hessian(loss)(logits, label))
    return basis @ (jnp.sqrt(jnp.maximum(values, 0.0)) * vector)


def hessian_product(
    loss: Loss,
    logits: Float[Array, " classes"],
    label: Int[Array, ""],
    vector: Float[Array, " classes"],
) -> Float[Array, " classes"]:
    """Multiply by the loss's Hessian in the logits, d2l/df2."""
    gradient = jax.grad(loss)
    return jax.jvp(lambda f: gradient(f, label), (logits,), (vector,))[1]
