import operator
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int32, PRNGKeyArray

from ..config import TrainConfig
from ..parallel import jit, split_batch
from ._average import move_average
from ._batch import Epoch, alternating_flip, make_batch
from ._forward import compute_dtype
from ._gradient import make_gradient
from ._loss import Loss
from ._optimiser import make_optimiser, steps_per_epoch
from ._per_parameter import l2_coefficients, learning_rates
from ._state import Totals, TrainState

Steps = Callable[[Epoch, TrainState, int], TrainState]


@lru_cache(maxsize=8)
def make_steps(
    config: TrainConfig,
    loss: Loss,
    num_classes: int,
    num_train: int,
    mesh: Mesh,
    *,
    grad_accum: int = 1,
    remat: bool = False,
) -> Steps:
    """Compile the whole training step: gather, augment, forward, backward, update.

    **Arguments:**

    - `config`: the recipe; its seed has no part in it.
    - `loss`: of one example, `(logits, target) -> scalar`.
    - `num_classes`, `num_train`: of the training set.
    - `mesh`: the devices that share each batch.
    - `grad_accum`, `remat`: see `make_gradient`.

    **Returns:**

    `(epoch, train_state, count) -> train_state`, which takes `count` steps of the epoch
    in one call, from `train_state.step` on. The buffers of `train_state` are donated.
    """
    optimiser = make_optimiser(config, num_train)
    gradient = make_gradient(config, loss, mesh, grad_accum, remat)
    per_epoch = steps_per_epoch(config, num_train)

    def step(epoch: Epoch, train_state: TrainState) -> TrainState:
        model, state = train_state.moving
        key = jax.random.fold_in(_stream(epoch.key, "step"), train_state.step)
        key_augment, key_mixup, key_model = jax.random.split(key, 3)

        number, place = jnp.divmod(train_state.step, per_epoch)
        start = place * config.batch_size
        chosen = jax.lax.dynamic_slice_in_dim(epoch.order, start, config.batch_size)
        chosen = split_batch(chosen, mesh)
        flip = None
        if config.flip == "alternating":
            flip = alternating_flip(_stream(epoch.key, "flip"), chosen, number)
        inputs, targets = make_batch(
            epoch,
            chosen,
            config,
            num_classes,
            compute_dtype(model, "f32"),
            flip=flip,
            key_augment=key_augment,
            key_mixup=key_mixup,
        )
        inputs = inputs.astype(compute_dtype(model, config.precision))
        keys = jax.random.split(key_model, config.batch_size)
        outcome = gradient(model, state, inputs, targets, keys)

        parameters = eqx.filter(model, eqx.is_inexact_array)
        l2 = l2_coefficients(parameters, config)
        grads = jax.tree.map(_with_l2, outcome.gradient, parameters, l2)
        updates, opt_state = optimiser.update(grads, train_state.opt_state, parameters)
        multiples = learning_rates(parameters, config)
        updates = jax.tree.map(operator.mul, multiples, updates)
        network = moving = eqx.apply_updates(model, updates), outcome.state
        if train_state.raw is not None:
            average = train_state.model, train_state.state
            network = move_average(average, moving, config.ema, train_state.step)

        totals = jax.tree.map(
            lambda total: jnp.where(place == 0, jnp.zeros_like(total), total),
            train_state.totals,
        )
        correct = jnp.argmax(outcome.logits, axis=1) == jnp.argmax(targets, axis=1)
        totals = Totals(
            totals.loss + outcome.loss.astype(totals.loss.dtype),
            totals.correct + jnp.sum(correct, dtype=jnp.int32),
            totals.gradient_norm
            + optax.tree.norm(grads).astype(totals.gradient_norm.dtype),
        )
        return TrainState(
            *network,
            opt_state,
            train_state.step + 1,
            totals,
            None if train_state.raw is None else moving,
        )

    @partial(jit, donate="all-except-first")
    def steps(epoch, train_state, count):
        if count == 1:
            return step(epoch, train_state)
        arrays, static = eqx.partition(train_state, eqx.is_array)

        def body(_, arrays):
            return eqx.filter(step(epoch, eqx.combine(arrays, static)), eqx.is_array)

        return eqx.combine(jax.lax.fori_loop(0, count, body, arrays), static)

    return steps


def _with_l2(gradient: Array, parameter: Array, coefficient: float) -> Array:
    return gradient + coefficient * parameter if coefficient else gradient


Purpose = Literal["model", "order", "step", "flip"]


def random_stream(seed: int, purpose: Purpose) -> PRNGKeyArray:
    """The key that a seed gives to one purpose, independent of the others."""
    return _stream(jax.random.key(seed), purpose)


def _stream(key: PRNGKeyArray, purpose: Purpose) -> PRNGKeyArray:
    return jax.random.fold_in(key, get_args(Purpose).index(purpose))


@partial(jax.jit, static_argnames="n")
def epoch_order(
    key: PRNGKeyArray, epoch: Int32[Array, ""] | int, n: int
) -> Int32[Array, " n"]:
    """The order in which an epoch visits `n` examples, by the key of the seed."""
    key = jax.random.fold_in(_stream(key, "order"), epoch)
    return jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32))
