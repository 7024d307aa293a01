from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int32

from ..config import TrainConfig
from ..errors import UsageError
from ._forward import Model


class Totals(eqx.Module):
    """Sums over the steps of the current epoch, which its log row divides."""

    loss: Float[Array, ""]
    correct: Int32[Array, ""]
    gradient_norm: Float[Array, ""]

    @staticmethod
    def zero() -> "Totals":
        """The sums before the first step of an epoch."""
        return Totals(jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros(()))


class TrainState(eqx.Module):
    """All that changes during training: what a checkpoint holds.

    Randomness is a function of the seed and `step`, so nothing else has to be saved.
    """

    model: Model
    state: eqx.nn.State
    opt_state: optax.OptState
    step: Int32[Array, ""]
    totals: Totals


def steps_per_epoch(config: TrainConfig, num_train: int) -> int:
    """Steps in one epoch, in which each example is drawn at most once.

    The remainder of the division by the batch size is left out of an epoch; every
    epoch leaves out others.

    **Raises:**

    `UsageError` when there are fewer examples than one batch.
    """
    if num_train < config.batch_size:
        raise UsageError(
            f"batch_size = {config.batch_size} is larger than the training set of "
            f"{num_train} images: choose --batch-size {num_train} or less"
        )
    return num_train // config.batch_size


def learning_rate(
    config: TrainConfig, num_train: int
) -> Callable[[ArrayLike], Float[Array, ""]]:
    """Linear warm-up to `config.lr`, then a cosine to 0 at the last step.

    **Returns:**

    A function from the step, counted from 0, to the learning rate. The first step's
    is 0 if there is a warm-up, as in the original.
    """
    steps = config.epochs * steps_per_epoch(config, num_train)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if config.warmup else config.lr,
        config.lr,
        int(config.warmup * steps),
        steps,
    )
    # Optax divides the step as it is; strict dtype promotion refuses an integer's.
    return lambda step: jnp.asarray(schedule(jnp.asarray(step, jnp.float32)))


def make_optimiser(config: TrainConfig, num_train: int) -> optax.GradientTransformation:
    """SGD with Nesterov momentum after clipping, for gradients that include L2."""
    clip = (
        optax.clip_by_global_norm(config.clip_norm)
        if config.clip_norm
        else optax.identity()
    )
    sgd = optax.sgd(
        learning_rate(config, num_train), momentum=config.momentum, nesterov=True
    )
    return optax.chain(clip, sgd)


def initialise(
    model: Model, state: eqx.nn.State, config: TrainConfig, num_train: int
) -> TrainState:
    """The state before the first step.

    **Arguments:**

    - `model`, `state`: as `eqx.nn.make_with_state` made them.
    - `config`: the recipe.
    - `num_train`: training examples, which decide the schedule's length.
    """
    parameters = eqx.filter(model, eqx.is_inexact_array)
    # Donated with the rest, so it may not share buffers with the caller's arrays.
    model, state = jax.tree.map(
        lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, (model, state)
    )
    return TrainState(
        model=model,
        state=state,
        opt_state=make_optimiser(config, num_train).init(parameters),
        step=jnp.zeros((), jnp.int32),
        totals=Totals.zero(),
    )
