"""Losses of one example, and roots of their Hessians in the logits."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ..config import loss_title
from ..errors import UsageError

# loss(logits of one example, its label) -> scalar
Loss = Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class NamedLoss:
    """A loss of one example by its name, against a one-hot label or a smoothed one.

    - `name`: `mse`, half the squared distance to the target, 0.5 ||f - t||^2, or `ce`,
        the softmax cross-entropy, -t' log softmax(f).
    - `label_smoothing`: s of the target t = (1 - s) e_y + s / C, as in `TrainConfig`.
        MixUp is augmentation, and no part of a measured loss.
    """

    name: str
    label_smoothing: float = 0.0

    def __post_init__(self):
        if self.name not in _OF_TARGET:
            raise UsageError(
                f"Unknown loss {self.name!r}: choose one of {', '.join(_OF_TARGET)}."
            )

    def __call__(
        self, logits: Float[Array, " classes"], label: Int[Array, ""]
    ) -> Float[Array, ""]:
        """The loss of one example."""
        target = jax.nn.one_hot(label, logits.shape[0], dtype=logits.dtype)
        target = optax.smooth_labels(target, self.label_smoothing)
        return _OF_TARGET[self.name](logits, target)

    def __str__(self) -> str:
        return loss_title(self.name, self.label_smoothing)


def _squared_error(logits: Array, target: Array) -> Array:
    return 0.5 * jnp.sum(jnp.square(logits - target))


def _cross_entropy(logits: Array, target: Array) -> Array:
    return -jnp.vdot(target, jax.nn.log_softmax(logits))


_OF_TARGET = {"mse": _squared_error, "ce": _cross_entropy}
mse, ce = NamedLoss("mse"), NamedLoss("ce")
losses: dict[str, Loss] = {"mse": mse, "ce": ce}


def get_loss(loss: str | Loss) -> Loss:
    """Look a loss up by name; a function of (logits, label) is returned as it is."""
    return NamedLoss(loss) if isinstance(loss, str) else loss


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
    Smoothed labels change the gradient in the logits, and not d2l/df2.
    """
    name = loss.name if isinstance(loss, NamedLoss) else None
    if name == "mse":
        return vector
    if name == "ce":
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
