from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int32, PRNGKeyArray, UInt8

from .. import data
from ..config import TrainConfig
from ..parallel import split_batch
from ._forward import cast, compute_dtype, forward_train
from ._loss import Loss
from ._state import Totals, TrainState, make_optimiser


class Epoch(eqx.Module):
    """The training set on the devices, and the order in which an epoch visits it."""

    images: UInt8[Array, "n height width 3"]
    labels: Int32[Array, " n"]
    order: Int32[Array, " n"]


Steps = Callable[[Epoch, TrainState, int], TrainState]


@lru_cache(maxsize=8)
def make_steps(
    config: TrainConfig, loss: Loss, num_classes: int, num_train: int, mesh: Mesh
) -> Steps:
    """Compile the whole training step: gather, augment, forward, backward, update.

    **Arguments:**

    - `config`: the recipe.
    - `loss`: of one example, `(logits, target) -> scalar`.
    - `num_classes`, `num_train`: of the training set.
    - `mesh`: the devices that share each batch.

    **Returns:**

    `(epoch, train_state, count) -> train_state`, which takes `count` steps of the epoch
    in one call, from `train_state.step` on. The buffers of `train_state` are donated.
    """
    optimiser = make_optimiser(config, num_train)
    per_epoch = num_train // config.batch_size
    root = random_stream(config.seed, "step")

    def batch_loss(model, state, inputs, targets, key):
        dtype = inputs.dtype
        logits, state = forward_train(
            cast(model, dtype), state, inputs, key, config.bn_group
        )
        logits = logits.astype(targets.dtype)
        return jnp.mean(jax.vmap(loss)(logits, targets)), (logits, state)

    def step(epoch: Epoch, train_state: TrainState) -> TrainState:
        model = train_state.model
        key = jax.random.fold_in(root, train_state.step)
        key_augment, key_mixup, key_model = jax.random.split(key, 3)

        start = (train_state.step % per_epoch) * config.batch_size
        chosen = jax.lax.dynamic_slice_in_dim(epoch.order, start, config.batch_size)
        chosen = split_batch(chosen, mesh)
        images, labels = epoch.images[chosen], epoch.labels[chosen]

        target_dtype = compute_dtype(model, "f32")
        targets = jax.nn.one_hot(labels, num_classes, dtype=target_dtype)
        targets = optax.smooth_labels(targets, config.label_smoothing)
        if config.augment:
            images = data.augment(key_augment, images)
        inputs = data.normalise(images, config.mean, config.std, target_dtype)
        if config.mixup:
            inputs, targets = data.mixup(key_mixup, inputs, targets, config.mixup)
        inputs = inputs.astype(compute_dtype(model, config.precision))

        grad = eqx.filter_value_and_grad(batch_loss, has_aux=True)
        (value, (logits, state)), grads = grad(
            model, train_state.state, inputs, targets, key_model
        )
        parameters = eqx.filter(model, eqx.is_inexact_array)
        grads = jax.tree.map(
            lambda g, p: g + config.weight_decay * p, grads, parameters
        )
        updates, opt_state = optimiser.update(grads, train_state.opt_state, parameters)
        first = train_state.step % per_epoch == 0
        totals = jax.tree.map(
            lambda total: jnp.where(first, jnp.zeros_like(total), total),
            train_state.totals,
        )
        correct = jnp.argmax(logits, axis=1) == jnp.argmax(targets, axis=1)
        totals = Totals(
            totals.loss + value.astype(totals.loss.dtype),
            totals.correct + jnp.sum(correct, dtype=jnp.int32),
            totals.gradient_norm
            + optax.tree.norm(grads).astype(totals.gradient_norm.dtype),
        )
        return TrainState(
            eqx.apply_updates(model, updates),
            state,
            opt_state,
            train_state.step + 1,
            totals,
        )

    @eqx.filter_jit(donate="all-except-first")
    def steps(epoch, train_state, count):
        if count == 1:
            return step(epoch, train_state)
        arrays, static = eqx.partition(train_state, eqx.is_array)

        def body(_, arrays):
            return eqx.filter(step(epoch, eqx.combine(arrays, static)), eqx.is_array)

        return eqx.combine(jax.lax.fori_loop(0, count, body, arrays), static)

    return steps


def random_stream(
    seed: int, purpose: Literal["model", "order", "step"]
) -> PRNGKeyArray:
    """The key that a seed gives to one purpose, independent of the others."""
    index = ("model", "order", "step").index(purpose)
    return jax.random.fold_in(jax.random.key(seed), index)


@partial(jax.jit, static_argnums=(0, 2))
def epoch_order(seed: int, epoch: Int32[Array, ""] | int, n: int) -> Int32[Array, " n"]:
    """The order in which an epoch visits `n` examples."""
    key = jax.random.fold_in(random_stream(seed, "order"), epoch)
    return jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32))
