import dataclasses
import inspect
import math
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ..config import TrainConfig
from ..data import Dataset
from ..errors import RunError
from ..parallel import any_process, make_mesh, replicate
from ._evaluate import example_losses, predict
from ._gradient import check_recipe
from ._loss import Loss, find_loss
from ._memory import planned_memory
from ._optimiser import learning_rate, steps_per_epoch
from ._state import Totals, TrainState, copied
from ._step import Epoch, epoch_order, make_steps

Row = dict[str, int | float]


class Interrupted(Exception):
    """Training stopped because it was asked to; `train_state` continues it."""

    def __init__(self, train_state: TrainState):
        super().__init__("training was interrupted")
        self.train_state = train_state


class Diverged(RunError):
    """The loss, a gradient or a parameter is not finite."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where training stands, shortly behind the device.

    - `epoch`: counted from 1.
    - `step`, `steps`: done and to do, over all epochs.
    - `loss`: mean over the current epoch so far.
    - `images_per_second`: over the current epoch so far.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    images_per_second: float


def fit(
    train_state: TrainState,
    dataset: Dataset,
    config: TrainConfig,
    *,
    loss: Loss | None = None,
    mesh: Mesh | None = None,
    steps_per_call: int | None = None,
    grad_accum: int = 1,
    remat: bool = False,
    on_compiled: Callable[[int | None], None] = lambda memory: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[TrainState, Row], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    lend: bool = False,
) -> tuple[TrainState, list[Row]]:
    """Train a network.

    **Arguments:**

    - `train_state`: where to start, made by `initialise` or read from a checkpoint;
        its buffers are donated.
    - `dataset`: the data; its test split is measured, and decides nothing.
    - `config`: the recipe.
    - `loss`: of one example, `(logits, target) -> scalar`; by default the one that
        `config.loss` names.
    - `mesh`: the devices that share each batch; all by default.
    - `steps_per_call`: steps in one compiled call. By default a whole epoch, and one
        step on the CPU, where convolutions in a loop are slower.
    - `grad_accum`: pieces of a batch that are computed one after another, to save
        memory; the numbers are the same up to rounding.
    - `remat`: compute again in the backward pass what lies between convolutions, to
        save memory, likewise.
    - `on_compiled`: called before the first step, with the bytes that it will hold on
        each device at its peak, as XLA planned it; `None` where that is not known.
    - `on_progress`: called after each compiled call, while the next one runs.
    - `on_epoch`: called with a copy of the state, for it to keep, and the row of every
        finished epoch.
    - `should_stop`: asked before each compiled call and at the end, on every process.
    - `lend`: give `on_epoch` no copy, but the state itself, whose buffers the next step
        takes; for what only reads it, and wants no memory.

    **Returns:**

    The trained state and a row for each epoch that was finished here:

    - `epoch`, counted from 1;
    - `loss`, `acc`: means over the epoch's training batches as they were seen, that
        is, augmented and before each update;
    - `loss_tr`, `acc_tr`, `loss_te`, `acc_te` (and `loss_va`, `acc_va`): over every
        example of a split, in inference mode after the epoch, as `predict` sees it;
        nan where `config.eval_every` left them out;
    - `weight_norm`: Euclidean norm of all parameters;
    - `gradient_norm`: mean over the epoch's steps of the Euclidean norm of the
        gradient, L2 term included, before clipping;
    - `lr`: of the epoch's last step;
    - `seconds`: of training, evaluation left out; `images_per_s`: likewise.

    **Raises:**

    `UsageError` when the batch does not fit the data or the devices, `Diverged` when a
    number is no longer finite, `Interrupted` when `should_stop` said so.
    """
    loss = find_loss(config.loss if loss is None else loss)
    mesh = make_mesh() if mesh is None else mesh
    num_train = len(dataset.train.labels)
    per_epoch = steps_per_epoch(config, num_train)
    check_recipe(train_state, dataset, config, mesh, grad_accum)
    if steps_per_call is None:
        steps_per_call = 1 if jax.default_backend() == "cpu" else per_epoch
    # An object can change between calls; a function is what it is, as for `jax.jit`.
    make = make_steps if inspect.isfunction(loss) else make_steps.__wrapped__
    steps = make(
        # One program for all seeds.
        dataclasses.replace(config, seed=0),
        loss,
        len(dataset.classes),
        num_train,
        mesh,
        grad_accum=grad_accum,
        remat=remat,
    )
    schedule = learning_rate(config, num_train)
    splits = {"tr": dataset.train, "te": dataset.test, "va": dataset.val}
    splits = {
        name: (replicate(jnp.asarray(split.images), mesh), split.labels)
        for name, split in splits.items()
        if split is not None
    }
    train_images, labels = splits["tr"]
    train_labels = replicate(jnp.asarray(labels), mesh)
    train_state = replicate(train_state, mesh)
    key = replicate(jax.random.key(config.seed), mesh)

    rows: list[Row] = []
    compiled = False
    first_epoch = int(train_state.step) // per_epoch
    for epoch in range(first_epoch, config.epochs):
        order = epoch_order(key, jnp.asarray(epoch, jnp.int32), num_train)
        inputs = Epoch(train_images, train_labels, replicate(order, mesh), key)
        clock = _Clock(epoch, int(train_state.step), per_epoch, config)
        running = None
        while clock.step < clock.last_step:
            if any_process(should_stop()):
                raise Interrupted(train_state)
            count = min(steps_per_call, clock.last_step - clock.step)
            if not compiled:
                on_compiled(planned_memory(steps, inputs, train_state, count))
                compiled = True
            train_state = steps(inputs, train_state, count)
            # Fetching waits for the device: read the last call while this one runs.
            if running is not None:
                on_progress(clock.progress(*running))
            clock.step += count
            # A copy, for the next call takes the state's own buffers.
            running = copied(train_state.totals), clock.step
        if running is not None:
            on_progress(clock.progress(*running))

        row = _summary(train_state, clock)
        row["lr"] = float(schedule(clock.last_step - 1))
        measured = (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs
        for name, (images, labels) in splits.items():
            row[f"loss_{name}"] = row[f"acc_{name}"] = math.nan
            if measured:
                seen = config.one_view() if name == "tr" else config
                logits = predict(
                    train_state.model, train_state.state, images, seen, mesh=mesh
                )
                row[f"loss_{name}"] = float(
                    example_losses(logits, labels, loss, config.label_smoothing).mean(
                        dtype=np.float64
                    )
                )
                row[f"acc_{name}"] = float((logits.argmax(1) == labels).mean())
        rows.append(row)
        if on_epoch is not None:
            on_epoch(train_state if lend else copied(train_state), row)
    # What a hook has left undone at the end is to be caught up with, too.
    if any_process(should_stop()):
        raise Interrupted(train_state)
    return train_state, rows


class _Clock:
    """Counts the steps of one epoch and times those taken here."""

    def __init__(self, epoch: int, step: int, per_epoch: int, config: TrainConfig):
        self.epoch, self.step, self.config = epoch, step, config
        self.first_step, self.last_step = epoch * per_epoch, (epoch + 1) * per_epoch
        self.total_steps = config.epochs * per_epoch
        self._resumed_at, self._start = step, time.perf_counter()

    def read(self, step: int) -> tuple[float, float]:
        """Seconds since the start, and images per second up to `step`."""
        seconds = time.perf_counter() - self._start
        return seconds, (step - self._resumed_at) * self.config.batch_size / seconds

    def progress(self, totals: Totals, step: int) -> Progress:
        _, images_per_second = self.read(step)
        loss = self.mean("loss", totals.loss, step)
        self.mean("gradient_norm", totals.gradient_norm, step)
        return Progress(self.epoch + 1, step, self.total_steps, loss, images_per_second)

    def mean(self, name: str, total: Float[Array, ""], step: int) -> float:
        """Of what was summed over the epoch up to `step`."""
        return self.check(name, float(total) / (step - self.first_step), step)

    def check(self, name: str, value: float, step: int) -> float:
        """The value, if it is finite."""
        if math.isfinite(value):
            return value
        rates = f"lr = {self.config.lr:g}"
        if self.config.muon_lr:
            rates += f", muon_lr = {self.config.muon_lr:g}"
        raise Diverged(
            f"training diverged: {name} is {value} in epoch {self.epoch + 1}, after "
            f"step {step} of {self.total_steps}; lower the learning rate ({rates}), "
            f"clip gradients (clip_norm = {self.config.clip_norm:g}; 0: never), or "
            "lengthen the warm-up"
        )


def _summary(train_state: TrainState, clock: _Clock) -> Row:
    totals, step = train_state.totals, clock.last_step
    parameters = eqx.filter(train_state.model, eqx.is_inexact_array)
    weight_norm = float(eqx.filter_jit(optax.tree.norm)(parameters))
    seen = (step - clock.first_step) * clock.config.batch_size
    row: Row = {
        "epoch": clock.epoch + 1,
        "loss": clock.mean("loss", totals.loss, step),
        "acc": int(totals.correct) / seen,
        "weight_norm": clock.check("weight_norm", weight_norm, step),
        "gradient_norm": clock.mean("gradient_norm", totals.gradient_norm, step),
    }
    row["seconds"], row["images_per_s"] = clock.read(step)
    return row
