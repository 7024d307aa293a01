from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int32, UInt8

from .. import data
from ..config import TrainConfig
from ..errors import UsageError
from ..models import whiten
from ._forward import Model

_WHITENING_IMAGES = 5000


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

    - `model`, `state`: the network, which is evaluated and saved.
    - `opt_state`: the optimiser's momentum.
    - `step`: steps taken, over all epochs.
    - `totals`: of the current epoch.
    - `raw`: with `config.ema`, the model and state that the steps move, of which the
        network is the moving average. Otherwise they move the network itself.
    """

    model: Model
    state: eqx.nn.State
    opt_state: optax.OptState
    step: Int32[Array, ""]
    totals: Totals
    raw: tuple[Model, eqx.nn.State] | None = None

    @property
    def moving(self) -> tuple[Model, eqx.nn.State]:
        """The model and state that the next step starts from."""
        return (self.model, self.state) if self.raw is None else self.raw


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
    """Linear warm-up to `config.lr`, then a cosine or a line to 0 at the last step.

    With the line, and up to half of the steps for warm-up, it is the triangle of Smith
    & Topin, 2018, https://arxiv.org/abs/1708.07120.

    **Returns:**

    A function from the step, counted from 0, to the learning rate. The first step's
    is 0 if there is a warm-up, as in the original.
    """
    steps = config.epochs * steps_per_epoch(config, num_train)
    first, warmup = 0.0 if config.warmup else config.lr, int(config.warmup * steps)
    if config.schedule == "linear":
        corners, rates = jnp.array([0, warmup, steps]), jnp.array([first, config.lr, 0])
        return lambda step: jnp.interp(jnp.asarray(step), corners, rates)
    schedule = optax.warmup_cosine_decay_schedule(first, config.lr, warmup, steps)
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
    model: Model,
    state: eqx.nn.State,
    config: TrainConfig,
    num_train: int,
    *,
    images: UInt8[np.ndarray, "n height width 3"] | None = None,
) -> TrainState:
    """The state before the first step.

    **Arguments:**

    - `model`, `state`: as `eqx.nn.make_with_state` made them.
    - `config`: the recipe.
    - `num_train`: training examples, which decide the schedule's length.
    - `images`: of these examples; only needed with `config.whiten`, which starts the
        first convolution from them.

    **Raises:**

    `UsageError` when `config.whiten` cannot be done.
    """
    if config.whiten:
        if images is None:
            raise UsageError(
                "whiten needs the training images: initialise(..., images)"
            )
        # Evenly spaced, for those of a folder may come class by class.
        few = images[:: -(-len(images) // _WHITENING_IMAGES)]
        few = data.normalise(jnp.asarray(few), config.mean, config.std)
        model = whiten(model, few)
    parameters = eqx.filter(model, eqx.is_inexact_array)
    # Donated with the rest, so it may not share buffers with the caller's arrays.
    network, raw = (
        jax.tree.map(
            lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, (model, state)
        )
        for _ in range(2)
    )
    return TrainState(
        *network,
        opt_state=make_optimiser(config, num_train).init(parameters),
        step=jnp.zeros((), jnp.int32),
        totals=Totals.zero(),
        raw=raw if config.ema else None,
    )
