"""Losses of one example, for training and for sharpness alike; `LOSSES` names them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from .config import loss_title
from .errors import UsageError

Function = Callable[
    [Float[Array, " classes"], Float[Array, " classes"]], Float[Array, ""]
]


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


def _cut(logits: Float[Array, " classes"]) -> Float[Array, " classes"]:
    return jnp.clip(logits, 0.0, 1.0)


def _identity_root(logits: Array, target: Array, vector: Array) -> Array:
    return vector


def _softmax_root(logits: Array, target: Array, vector: Array) -> Array:
    # d2l/df2 = diag(p) - p p' = sum_c p_c (e_c - p)(e_c - p)', so B = (I - p 1')
    # diag(sqrt p): no difference of near-equal numbers, so that confident predictions
    # keep their digits in float32.
    p = jax.nn.softmax(logits)
    scaled = jnp.sqrt(p) * vector
    return scaled - p * jnp.sum(scaled)


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of one example, with what follows from it.

    - `function`: `(logits, target) -> scalar`, twice differentiable in the logits;
        `target` is a distribution over the classes.
    - `name`: in `config.json` and in tables; by default `module.name` of the function.
    - `probabilities`: what the logits of one example say of each class.
    - `probabilities_are`: the same in words.
    - `root`: `(logits, target, vector) -> B vector` of a root of the loss's Hessian in
        the logits, `B B' = d2l/df2`. Without one, it is computed by an
        eigendecomposition, and the loss must be convex in the logits: where it is not,
        the product is nan.
    - `label_smoothing`: s of the target that a label stands for, (1 - s) e_y + s / C,
        as in `TrainConfig`. MixUp is augmentation, and no part of a measured loss.
    """

    function: Function
    name: str = ""
    probabilities: Callable[[Float[Array, " classes"]], Float[Array, " classes"]] = (
        jax.nn.softmax
    )
    probabilities_are: str = "the softmax of the outputs"
    root: Callable[[Array, Array, Array], Array] | None = None
    label_smoothing: float = 0.0

    def __post_init__(self):
        if not self.name:
            object.__setattr__(self, "name", own_name(self.function))

    def __call__(
        self,
        logits: Float[Array, " classes"],
        target: Float[Array, " classes"] | Int[Array, ""],
    ) -> Float[Array, ""]:
        """The loss of one example against a distribution, or against its label."""
        return self.function(logits, self._target(logits, target))

    def __str__(self) -> str:
        return loss_title(self.name, self.label_smoothing)

    def targets(
        self, labels: Int[Array, "*batch"], classes: int, dtype: DTypeLike
    ) -> Float[Array, "*batch classes"]:
        """The distributions that labels stand for: one-hot, or smoothed."""
        targets = jax.nn.one_hot(labels, classes, dtype=dtype)
        return optax.smooth_labels(targets, self.label_smoothing)

    def root_product(
        self,
        logits: Float[Array, " classes"],
        target: Float[Array, " classes"] | Int[Array, ""],
        vector: Float[Array, " classes"],
    ) -> Float[Array, " classes"]:
        """Multiply by a root B of the loss's Hessian in the logits, B B' = d2l/df2."""
        target = self._target(logits, target)
        if self.root is not None:
            return self.root(logits, target, vector)
        values, basis = jnp.linalg.eigh(jax.hessian(self.function)(logits, target))
        rounding = 100 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
        root = jnp.sqrt(jnp.where(jnp.abs(values) <= rounding, 0.0, values))
        return basis @ (root * vector)

    def hessian_product(
        self,
        logits: Float[Array, " classes"],
        target: Float[Array, " classes"] | Int[Array, ""],
        vector: Float[Array, " classes"],
    ) -> Float[Array, " classes"]:
        """Multiply by the loss's Hessian in the logits, d2l/df2."""
        target, gradient = self._target(logits, target), jax.grad(self.function)
        return jax.jvp(lambda f: gradient(f, target), (logits,), (vector,))[1]

    def _target(self, logits: Array, target: Array) -> Array:
        if jnp.ndim(target):
            return target
        return self.targets(target, len(logits), logits.dtype)


AnyLoss = str | Function | Loss

LOSSES: dict[str, Loss] = {
    "mse": Loss(
        squared_error,
        "mse",
        probabilities=_cut,
        probabilities_are="the outputs cut to [0, 1], which need not sum to 1",
        root=_identity_root,
    ),
    "ce": Loss(cross_entropy, "ce", root=_softmax_root),
}


def get_loss(loss: AnyLoss, label_smoothing: float = 0.0) -> Loss:
    """The loss that a name or a function stands for; a `Loss` is returned as it is.

    **Arguments:**

    - `loss`: one of `LOSSES`, its function, a function of one's own, or a `Loss`.
    - `label_smoothing`: of the targets, unless a `Loss` has its own.

    **Raises:**

    `UsageError` for a name that is none of `LOSSES`, such as that of a function of
    one's own.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise UsageError(
                f"no loss {loss!r} here: choose {' or '.join(LOSSES)}, or, in Python, "
                "give the function itself"
            )
        loss = LOSSES[loss]
    if not isinstance(loss, Loss):
        known = [ours for ours in LOSSES.values() if ours.function is loss]
        loss = known[0] if known else Loss(loss)
    if not label_smoothing or loss.label_smoothing:
        return loss
    return dataclasses.replace(loss, label_smoothing=label_smoothing)


def own_name(part: Callable) -> str:
    """`module.name` of a function, of what a partial calls, or of an object's class."""
    part = getattr(part, "func", part)
    of = part if hasattr(part, "__qualname__") else type(part)
    return f"{of.__module__}.{of.__qualname__}"
