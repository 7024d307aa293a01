"""The library's own training step and evaluation, ready to be timed."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqcifar import models, training
from eqcifar.config import TrainConfig
from eqcifar.parallel import make_mesh
from eqcifar.training._recipe import make_recipe
from eqcifar.training._step import Epoch, epoch_order, make_steps

from .sides import Case

CLASSES = 10


class Subject:
    """What `fit` does in an epoch, without its log; `compile` it before training."""

    def __init__(self, case: Case, name: str = ""):
        self.case, self.mesh = case, make_mesh(1)
        images, labels = case.pixels()
        self.images, self.labels = jnp.asarray(images), jnp.asarray(labels)
        key = training.random_stream(0, "model")
        self.model, self.state = models.create(case.arch, CLASSES, key=key)
        self.train_state = self.start(case.config())
        self.compiled: Any

    def weights(self) -> list[np.ndarray]:
        """The parameters as they are, in the order of the leaves."""
        return _arrays(self.train_state.model)

    def first_step(self) -> tuple[float, list[np.ndarray]]:
        """The loss of the first batch, and the parameters after a step on it."""
        config = self.case.check_config()
        take = self._steps(config)
        order = jnp.arange(self.case.images, dtype=jnp.int32)
        after = take(self._epoch(order), self.start(config), 1)
        return float(after.totals.loss), _arrays(after.model)

    def compile(self):
        """Compile the step."""
        lowered = self._steps(self.case.config()).lower(*self._arguments())
        self.compiled = lowered.compile()

    def train(self, calls: int) -> float:
        """Seconds that so many calls take, of `case.steps` steps each."""
        begin = time.perf_counter()
        for _ in range(calls):
            self.train_state = self.compiled(*self._arguments())
        jax.block_until_ready(self.train_state.step)
        return time.perf_counter() - begin

    def predict(self, calls: int) -> float:
        """Seconds to evaluate `case.evaluated` images so many times."""
        images, config = self.images[: self.case.evaluated], self.case.config()
        state = self.train_state
        jax.block_until_ready(images)
        begin = time.perf_counter()
        for _ in range(calls):
            training.predict(state.model, state.state, images, config, mesh=self.mesh)
        return time.perf_counter() - begin

    def start(self, config: TrainConfig) -> training.TrainState:
        return training.initialise(self.model, self.state, config, self.case.images)

    def _steps(self, config: TrainConfig) -> Any:
        return make_steps(make_recipe(config, self.case.images), self.mesh)

    def _epoch(self, order: jax.Array) -> Epoch:
        count = self.case.images
        images, labels = self.images[:count], self.labels[:count]
        return Epoch(images, labels, order, jax.random.key(0), CLASSES)

    def _arguments(self) -> tuple[Epoch, training.TrainState, int]:
        order = epoch_order(jax.random.key(0), 0, self.case.images)
        return self._epoch(order), self.train_state, self.case.steps


def _arrays(model: Any) -> list[np.ndarray]:
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    return [np.array(leaf) for leaf in leaves]
