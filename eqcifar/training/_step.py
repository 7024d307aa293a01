from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int32, PRNGKeyArray

from ..parallel import jit, split_batch
from ._augmentations import Keys
from ._average import move_average
from ._batch import Epoch, alternating_flip, make_batch
from ._forward import compute_dtype
from ._gradient import make_gradient
from ._optimisers import gradient_norm
from ._recipe import Recipe
from ._state import TrainState

Steps = Callable[[Epoch, TrainState, int], TrainState]


@lru_cache(maxsize=8)
def make_steps(
    recipe: Recipe, mesh: Mesh, *, grad_accum: int = 1, remat: bool = False
) -> Steps:
    """Compile the whole training step: gather, augment, forward, backward, update.

    **Arguments:**

    - `recipe`: what training is made of.
    - `mesh`: the devices that share each batch.
    - `grad_accum`, `remat`: see `make_gradient`.

    **Returns:**

    `(epoch, train_state, count) -> train_state`, which takes `count` steps of the epoch
    in one call, from `train_state.step` on. The buffers of `train_state` are donated.
    """
    gradient = make_gradient(recipe, mesh, grad_accum, remat)

    def step(epoch: Epoch, train_state: TrainState) -> TrainState:
        model, state = train_state.moving
        key = jax.random.fold_in(_stream(epoch.key, "step"), train_state.step)
        key_augment, key_mixup, key_model = jax.random.split(key, 3)

        number, place = jnp.divmod(train_state.step, recipe.steps_per_epoch)
        start = place * recipe.batch_size
        chosen = jax.lax.dynamic_slice_in_dim(epoch.order, start, recipe.batch_size)
        chosen, flip = split_batch(chosen, mesh), None
        if recipe.alternating_flips:
            flip = alternating_flip(_stream(epoch.key, "flip"), chosen, number)
        keys, exact = Keys(key_augment, key_mixup), compute_dtype(model, "f32")
        inputs, targets = make_batch(epoch, chosen, recipe, exact, flip=flip, keys=keys)
        inputs = inputs.astype(compute_dtype(model, recipe.view.precision))
        outcome = gradient(
            model, state, inputs, targets, jax.random.split(key_model, len(chosen))
        )

        parameters = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = recipe.optimiser.update(
            outcome.gradient, train_state.opt_state, parameters
        )
        network = moving = eqx.apply_updates(model, updates), outcome.state
        if train_state.raw is not None:
            assert recipe.average is not None  # noqa: S101, for the type checker
            average = train_state.model, train_state.state
            network = move_average(average, moving, recipe.average, train_state.step)
        correct = jnp.argmax(outcome.logits, axis=1) == jnp.argmax(targets, axis=1)
        norm = gradient_norm(opt_state)
        return TrainState(
            *network,
            opt_state,
            train_state.step + 1,
            train_state.totals.plus(place, outcome.loss, correct, norm),
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
