import math
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from .. import data
from ..config import TrainConfig
from ..data import Dataset
from ..errors import EqcifarError, UsageError
from ..losses import AnyLoss
from ..parallel import is_main_process, jit
from ..sharpness import Operator, Rows, leading_eigenpair, load_rows, save_rows
from ..storage import Run, append_wide, keep_rows, read_wide
from ..training import (
    Recipe,
    Schedule,
    TrainState,
    batch_loss,
    learning_rates,
    make_recipe,
)
from ._along_training import _local

# How much of a random vector is added to the last eigenvector: another direction may
# have become the steepest.
_FRESH = 0.1
# Of the largest eigenvalue.
_RTOL = 1e-3
# Optax's.
_ADAM_EPS = 1e-8
# What the file of vectors says that it holds.
_VECTORS = "stability"


def threshold(config: TrainConfig, lr: float, step: int) -> float:
    r"""The curvature at which an optimiser turns unstable on a quadratic.

    For SGD $2/\eta$ without momentum, $(2 + 2\beta)/\eta$ with the heavy ball's and
    $(2 + 2\beta)/(\eta(1 + 2\beta))$ with Nesterov's: Cohen et al., 2021, appendix B,
    https://arxiv.org/abs/2103.00065. For AdamW $(2 + 2\beta_1)/((1 - \beta_1)\eta)$ in
    the coordinates of its preconditioner, times $1 - \beta_1^t$ at the start: Cohen et
    al., 2022, https://arxiv.org/abs/2207.14484. With `momentum = 0`, that is RMSProp's.

    **Arguments:**

    - `config`: gives `optimiser`, `momentum` and `nesterov`.
    - `lr`: $\eta$.
    - `step`: $t - 1$, the steps before this one.

    **Returns:**

    The largest stable eigenvalue; infinite where the learning rate is 0.

    **Raises:**

    `UsageError` for other optimisers.
    """
    beta = config.momentum
    factors = {
        "sgd": 1 / (1 + 2 * beta) if config.nesterov else 1.0,
        "adamw": (1 - beta ** (step + 1)) / (1 - beta),
    }
    if config.optimiser not in factors:
        raise UsageError(
            f"stability_every: no threshold is known of the optimiser "
            f"{config.optimiser}, for {' and '.join(factors)} alone"
        )
    return (2 + 2 * beta) * factors[config.optimiser] / lr if lr else math.inf


class StabilityLog:
    r"""Follows the edge of stability along training, into `stability.tsv` of the run.

    Its methods are for `on_start`, `on_step` and `on_save` of `eqcifar.runs.Hooks`.
    Training is not affected. The Hessian is that of the loss that steps descend: in
    training mode, with its L2 term, of normalised images that are always the same and
    not augmented, and in the coordinates of the optimiser, $P^{-1/2} H P^{-1/2}$. $P$
    has 1 for SGD and $\sqrt{\hat v} + 10^{-8}$ for AdamW, over the multiples of the
    learning rate of `eqcifar.training.learning_rates`. SAM, clipping and decoupled
    decay are left out.

    - `step`: steps taken before; `lr`: of the next.
    - `loss`: of these images, without the L2 term.
    - `lambda_max`: the largest eigenvalue; `bound`: how near to it there is one.
    - `threshold`: see `eqcifar.measurements.threshold`; `ratio`: in units of it.
    - `directional`: $u'Hu / \|u\|^2$ along the next update $u$, without $P$.
    - `matvecs`: products with the Hessian that the eigenvalue took.
    """

    def __init__(
        self,
        config: TrainConfig,
        every: int,
        *,
        batches: int = 1,
        loss: AnyLoss | None = None,
        schedule: Schedule | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ):
        """Nothing is measured yet.

        **Arguments:**

        - `config`: of the run.
        - `every`: steps between measurements.
        - `batches`: of the run's batch size; all where there are fewer.
        - `loss`, `schedule`: of the run, if they are functions of one's own.
        - `warn`: called with a line where the digits will be others than those of an
            uninterrupted run, and for a measurement that failed.

        **Raises:**

        `UsageError` for an optimiser whose threshold is not known.
        """
        threshold(config, config.lr, 0)
        self._config, self._every, self._count = config, every, batches
        self._loss, self._schedule, self._warn = loss, schedule, warn

    def on_start(self, run: Run, dataset: Dataset, train_state: TrainState):
        """Drop what a resumed run will measure again, and go on from its vector."""
        # Under the names of what is trained, one's own optimiser is known by its name.
        self._config = TrainConfig.from_dict(run.config())
        threshold(self._config, self._config.lr, 0)
        self._recipe = make_recipe(
            self._config, len(dataset.train), loss=self._loss, schedule=self._schedule
        )
        if not is_main_process():
            return
        self._batches = self._choose(dataset)
        self._path = run.path / "stability.tsv"
        self._vectors = self._path.with_suffix(".npz")
        self._pending: tuple[int, Any] | None = None
        self._vector: Array | None = None
        self._saved: Rows = {}
        step = int(train_state.step)
        keep_rows(self._path, lambda row: int(row["step"]) < step)
        ended = train_state.has_ended(self._config, self._recipe.steps_per_epoch)
        if not ended and read_wide(self._path, only_last=True):
            self._load(step)
        self.on_step(step, train_state)

    def on_step(self, step: int, train_state: TrainState):
        """Measure before a step, when its update is known."""
        if not is_main_process():
            return
        if self._pending is not None:
            before, network = self._pending
            self._pending = None
            try:
                self._measure(before, network, train_state)
            except EqcifarError as error:
                self._warn(f"stability before step {before} was not measured: {error}")
        # After the last there is no update to measure along, and no run to go on.
        self._ended = train_state.has_ended(self._config, self._recipe.steps_per_epoch)
        if step % self._every == 0 and not self._ended:
            self._pending = step, jax.tree.map(_local, train_state.moving)

    def on_save(self, step: int):
        """Keep the vector that the next measurement starts from, and the last one's."""
        if self._ended:
            self._vectors.unlink(missing_ok=True)
        elif self._vector is not None:
            # The checkpoint that is there may remain the last.
            kept = dict(list(self._saved.items())[-1:])
            self._saved = {**kept, step: {"vector": np.asarray(self._vector)}}
            save_rows(self._vectors, self._saved, _VECTORS)

    def _load(self, step: int):
        try:
            self._saved = {step: load_rows(self._vectors, _VECTORS)[step]}
            self._vector = jnp.asarray(self._saved[step]["vector"])
        # A file that is not there, damaged, or of another checkpoint.
        except Exception as error:
            self._warn(f"{self._path} goes on from a random vector: {error!r}")

    def _choose(self, dataset: Dataset) -> "list[_Batch]":
        split, size = dataset.train, self._config.batch_size
        key_images, key_model, self._key = jax.random.split(
            jax.random.key(self._config.seed), 3
        )
        order = np.asarray(jax.random.permutation(key_images, len(split)))
        return [
            _Batch(
                jnp.asarray(split.images[order[first : first + size]]),
                jnp.asarray(split.labels[order[first : first + size]]),
                jax.random.split(jax.random.fold_in(key_model, first), size),
                len(dataset.classes),
            )
            for first in range(0, len(split) - size + 1, size)[: self._count]
        ]

    def _measure(self, step: int, network: tuple[Any, Any], after: TrainState):
        model, state = network
        parameters, static = eqx.partition(model, eqx.is_inexact_array)
        flat, unravel = ravel_pytree(parameters)
        root = ravel_pytree(self._root(step, parameters, after.opt_state))[0]
        loss = _Loss(self._recipe, static, state)

        def hessian(vector: Array) -> Array:
            """The mean over the batches, in as much memory as one takes."""
            total, direction = jnp.zeros_like(flat), unravel(vector)
            for batch in self._batches:
                part = _product(loss, parameters, direction, batch)
                total += ravel_pytree(part)[0]
            return total / len(self._batches)

        def product(vector: Array) -> Array:
            return root * hessian(root * vector)

        key = jax.random.fold_in(self._key, step)
        start = jax.random.normal(key, flat.shape, flat.dtype)
        if self._vector is not None:
            start = self._vector + _FRESH * start / jnp.linalg.norm(start)
        operator = Operator(product, flat.size, flat.dtype)
        value, bound, self._vector = leading_eigenpair(operator, start, rtol=_RTOL)

        moved = eqx.filter(jax.tree.map(_local, after.moving[0]), eqx.is_inexact_array)
        update = ravel_pytree(moved)[0] - flat
        square = float(jnp.vdot(update, update))
        along = (
            float(jnp.vdot(update, hessian(update))) / square if square else math.nan
        )
        losses = [float(_value(loss, parameters, batch)) for batch in self._batches]
        lr = float(self._recipe.schedule(step))
        edge = threshold(self._config, lr, step)
        append_wide(
            self._path,
            {
                "step": step,
                "lr": lr,
                "loss": math.fsum(losses) / len(losses),
                "lambda_max": value,
                "bound": bound,
                "threshold": edge,
                "ratio": value / edge,
                "directional": along,
                "matvecs": operator.matvecs,
            },
        )

    def _root(self, step: int, parameters: PyTree, opt_state: PyTree) -> PyTree:
        """The diagonal of P^-1/2, like the parameters."""
        multiples = jax.tree.map(
            lambda p, multiple: jnp.full_like(p, multiple),
            parameters,
            learning_rates(parameters, self._config),
        )
        if self._config.optimiser == "adamw":
            squares = jax.tree.map(_local, optax.tree.get(opt_state, "nu"))
            unbiased = 1 - self._config.beta2 ** (step + 1)
            multiples = jax.tree.map(
                lambda m, v: m / (jnp.sqrt(v / unbiased) + _ADAM_EPS),
                multiples,
                squares,
            )
        return jax.tree.map(jnp.sqrt, multiples)


class _Batch(eqx.Module):
    """Training images, always the same."""

    images: UInt8[Array, "batch height width 3"]
    labels: Int[Array, " batch"]
    keys: Key[Array, " batch"]
    classes: int = eqx.field(static=True)


class _Loss(eqx.Module):
    """The mean loss of a batch as a step sees it, but for augmentation."""

    recipe: Recipe = eqx.field(static=True)
    network: PyTree
    state: eqx.nn.State

    def __call__(self, parameters: PyTree, batch: _Batch) -> Float[Array, ""]:
        view, dtype = self.recipe.view, jax.tree.leaves(parameters)[0].dtype
        inputs = data.normalise(batch.images, view.mean, view.std, dtype)
        targets = self.recipe.loss.targets(batch.labels, batch.classes, dtype)
        model = eqx.combine(parameters, self.network)
        with jax.default_matmul_precision("highest"):
            return batch_loss(
                self.recipe, model, self.state, inputs, targets, batch.keys
            )[0]


@jit
def _value(loss: _Loss, parameters: PyTree, batch: _Batch) -> Float[Array, ""]:
    return loss(parameters, batch)


@jit
def _product(loss: _Loss, parameters: PyTree, vector: PyTree, batch: _Batch) -> PyTree:
    """Multiply by the Hessian of the loss with its L2 term."""
    gradient = jax.grad(loss)
    product = jax.jvp(lambda p: gradient(p, batch), (parameters,), (vector,))[1]
    l2 = loss.recipe.l2(parameters)
    return jax.tree.map(lambda h, k, v: h + k * v, product, l2, vector)
