"""The learning rate's schedule, and what becomes of a gradient."""

import math
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree
from optax import contrib

from ..config import TrainConfig
from ..errors import UsageError
from ._per_parameter import moved_by_muon

# Few, for directions need not be exactly orthogonal: as many as in airbench94_muon.
_NEWTON_SCHULZ_STEPS = 3


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
    """SGD with Nesterov momentum after clipping, for gradients that include L2.

    With `config.muon_lr`, `muon` instead for the arrays that `moved_by_muon` names.
    """
    clip = (
        optax.clip_by_global_norm(config.clip_norm)
        if config.clip_norm
        else optax.identity()
    )
    rate = learning_rate(config, num_train)
    sgd = optax.sgd(rate, momentum=config.momentum, nesterov=True)
    if not config.muon_lr:
        return optax.chain(clip, sgd)

    def names(parameters):
        return jax.tree.map(
            lambda by_muon: "muon" if by_muon else "sgd",
            moved_by_muon(parameters, config),
        )

    def muon_rate(step):
        return config.muon_lr / config.lr * rate(step)

    optimisers: dict[Hashable, optax.GradientTransformation] = {
        "muon": muon(muon_rate, config.muon_momentum),
        "sgd": sgd,
    }
    return optax.chain(clip, optax.partition(optimisers, names))


def muon(
    learning_rate: Callable[[ArrayLike], Float[Array, ""]], momentum: float
) -> optax.GradientTransformation:
    r"""Steps of one length in all directions, for filters whose own length is fixed.

    With a convolution's array as a matrix of one row for each of its $n$ output
    channels, $\theta \leftarrow \sqrt{n}\,\theta / \lVert\theta\rVert_F -
    \eta_t\,\mathrm{msign}(d)$. Here $d$ is Nesterov's direction: $\mu v + g$ once $v
    \leftarrow \mu v + g$ has forgotten its start, for which Optax corrects before. Of
    $\mathrm{msign}(U S V^\top) = U V^\top$, three Newton-Schulz iterations give an
    approximation, see docs/training.md. The rescaling changes no output where
    BatchNorm follows, and stands for L2.

    Jordan, 2024, "Muon: An optimizer for hidden layers in neural networks",
    https://kellerjordan.github.io/posts/muon/; three iterations and the rescaling are
    those of https://github.com/KellerJordan/cifar10-airbench, airbench94_muon.py.

    **Arguments:**

    - `learning_rate`: $\eta_t$, a function of the step.
    - `momentum`: $\mu$.
    """

    def as_matrices(arrays: PyTree) -> PyTree:
        numbers = contrib.MuonDimensionNumbers((1, 2, 3), 0)
        return jax.tree.map(lambda _: numbers, arrays)

    directions = contrib.scale_by_muon(
        ns_steps=_NEWTON_SCHULZ_STEPS,
        beta=momentum,
        weight_dimension_numbers=as_matrices,
    )

    def update(updates, state, params=None):
        # Strict promotion refuses Optax's power of a float by a count.
        with jax.numpy_dtype_promotion("standard"):
            moved, state = directions.update(updates, state, params)
        moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, updates)
        return moved, state

    return optax.chain(
        optax.GradientTransformation(directions.init, update),
        optax.scale_by_learning_rate(learning_rate),
        optax.stateless(_rescale),
    )


def _rescale(updates: PyTree, parameters: PyTree) -> PyTree:
    def add_rescaling(update, parameter):
        norm = jnp.linalg.norm(parameter.ravel())
        factor = jnp.where(norm > 0, math.sqrt(len(parameter)) / norm, 1)
        return update + (factor - 1) * parameter

    return jax.tree.map(add_rescaling, updates, parameters)
