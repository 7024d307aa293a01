import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ..config import TrainConfig
from ..data import Dataset
from ..errors import RunError, UsageError
from ..losses import AnyLoss
from ..parallel import any_process, make_mesh, replicate
from ._evaluate import example_losses, predict
from ._gradient import check_recipe
from ._memory import planned_memory
from ._recipe import AnyOptimiser, Recipe, make_recipe
from ._schedules import Schedule
from ._state import Totals, TrainState, copied
from ._statistics import renew_statistics
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
    loss: AnyLoss | None = None,
    optimiser: AnyOptimiser | None = None,
    schedule: Schedule | None = None,
    mesh: Mesh | None = None,
    steps_per_call: int | None = None,
    grad_accum: int = 1,
    remat: bool = False,
    on_compiled: Callable[[int | None], None] = lambda memory: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_step: Callable[[int, TrainState], None] | None = None,
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
    - `loss`: of one example, `(logits, target) -> scalar`, or an `eqcifar.losses.Loss`;
        by default the one that `config.loss` names.
    - `optimiser`: what turns the gradient of the mean loss into what is added to the
        parameters, such as `optax.adamw(1e-3)`; by default the one that
        `config.optimiser` names. L2, clipping and multiples of the learning rate are
        the latter's. It may be a function of the schedule, such as `optax.lion` or
        `functools.partial(optax.adamw, weight_decay=0.1)`.
    - `schedule`: the learning rate of each step, counted from 0; by default the one
        that `config.schedule` names. It multiplies the steps of an `optimiser` that is
        no function of it: give that a learning rate of 1, or no schedule.
    - `mesh`: the devices that share each batch; all by default.
    - `steps_per_call`: steps in one compiled call. By default a whole epoch, and one
        step with `on_step` and on the CPU, where convolutions in a loop are slower.
    - `grad_accum`: pieces of a batch that are computed one after another, to save
        memory; the numbers are the same up to rounding.
    - `remat`: compute again in the backward pass what lies between convolutions, to
        save memory, likewise.
    - `on_compiled`: called before the first step, with the bytes that it will hold on
        each device at its peak, as XLA planned it; `None` where that is not known.
    - `on_progress`: called after each compiled call, while the next one runs.
    - `on_step`: called after each compiled call with the steps done and the state
        itself, whose buffers the next step takes. Its time is none of training.
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
    - `acc_tr_true`: as `acc_tr`, on the true labels, where some of train are drawn;
    - `weight_norm`: Euclidean norm of all parameters;
    - `gradient_norm`: mean over the epoch's steps of the Euclidean norm of the
        gradient, L2 term included, before clipping;
    - `lr`: of the epoch's last step; nan for an `optimiser` with its own;
    - `seconds`: of training, evaluation left out; `images_per_s`: likewise.

    **Raises:**

    `UsageError` when the batch does not fit the data or the devices, or when
    `train_state` is of another optimiser; `Diverged` when a number is no longer finite,
    `Interrupted` when `should_stop` said so.
    """
    mesh = make_mesh() if mesh is None else mesh
    num_train = len(dataset.train.labels)
    recipe = make_recipe(
        config, num_train, loss=loss, optimiser=optimiser, schedule=schedule
    )
    check_recipe(train_state, dataset, recipe, mesh, grad_accum)
    train_state = _with_optimiser(train_state, recipe)
    per_epoch = recipe.steps_per_epoch
    if steps_per_call is None:
        one = on_step is not None or jax.default_backend() == "cpu"
        steps_per_call = 1 if one else per_epoch
    steps = make_steps(recipe, mesh, grad_accum=grad_accum, remat=remat)
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
    for epoch in _epochs_left(train_state, config, per_epoch):
        order = epoch_order(key, jnp.asarray(epoch, jnp.int32), num_train)
        inputs = Epoch(
            train_images,
            train_labels,
            replicate(order, mesh),
            key,
            len(dataset.classes),
        )
        clock = _Clock(epoch, int(train_state.step), recipe)
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
            if on_step is not None:
                with clock.paused():
                    on_step(clock.step, train_state)
        if running is not None:
            on_progress(clock.progress(*running))

        row = _summary(train_state, clock)
        row["lr"] = float(recipe.schedule(clock.last_step - 1))
        if config.swa_from and epoch + 1 >= config.swa_from:
            network = train_state.model, train_state.state
            renewed = renew_statistics(*network, inputs, recipe, mesh)
            train_state = dataclasses.replace(train_state, state=renewed)
        is_last = config.ends_at(epoch + 1, row["loss"])
        measured = is_last or (epoch + 1) % recipe.eval_every == 0
        for name, (images, labels) in splits.items():
            row[f"loss_{name}"] = row[f"acc_{name}"] = math.nan
            if measured:
                seen = recipe.view if name == "tr" else recipe.test_view
                logits = predict(
                    train_state.model, train_state.state, images, seen, mesh=mesh
                )
                losses = example_losses(logits, labels, recipe.loss)
                row[f"loss_{name}"] = float(losses.mean(dtype=np.float64))
                guesses = logits.argmax(1)
                row[f"acc_{name}"] = float((guesses == labels).mean())
                if name == "tr" and dataset.train.true_labels is not None:
                    row["acc_tr_true"] = float((guesses == dataset.train.truth).mean())
        rows.append(row)
        if on_epoch is not None:
            on_epoch(train_state if lend else copied(train_state), row)
        if is_last:
            break
    # What a hook has left undone at the end is to be caught up with, too.
    if any_process(should_stop()):
        raise Interrupted(train_state)
    return train_state, rows


def _epochs_left(train_state: TrainState, config: TrainConfig, per_epoch: int) -> range:
    """The epochs that a state has not ended yet, if it is not at its end."""
    done = int(train_state.step) // per_epoch
    over = train_state.has_ended(config, per_epoch)
    return range(done, done if over else config.epochs)


class _Clock:
    """Counts the steps of one epoch and times those taken here."""

    def __init__(self, epoch: int, step: int, recipe: Recipe):
        self.epoch, self.step, self.recipe = epoch, step, recipe
        per_epoch = recipe.steps_per_epoch
        self.first_step, self.last_step = epoch * per_epoch, (epoch + 1) * per_epoch
        self.total_steps = recipe.epochs * per_epoch
        self._resumed_at, self._start = step, time.perf_counter()

    def read(self, step: int) -> tuple[float, float]:
        """Seconds since the start, and images per second up to `step`."""
        seconds = time.perf_counter() - self._start
        return seconds, (step - self._resumed_at) * self.recipe.batch_size / seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that something else takes."""
        began = time.perf_counter()
        yield
        self._start += time.perf_counter() - began

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
        raise Diverged(
            f"training diverged: {name} is {value} in epoch {self.epoch + 1}, after "
            f"step {step} of {self.total_steps}; {self.recipe.remedy}"
        )


def _with_optimiser(train_state: TrainState, recipe: Recipe) -> TrainState:
    """The state with its optimiser's, where it was begun for another."""
    parameters = eqx.filter(train_state.moving[0], eqx.is_inexact_array)
    init = recipe.optimiser.init
    like = jax.tree.structure(jax.eval_shape(init, parameters))
    if jax.tree.structure(train_state.opt_state) == like:
        return train_state
    if int(train_state.step):
        raise UsageError(
            "this training was begun by another optimiser: give that one, or start "
            "from initialise"
        )
    return dataclasses.replace(train_state, opt_state=init(parameters))


def _summary(train_state: TrainState, clock: _Clock) -> Row:
    totals, step = train_state.totals, clock.last_step
    parameters = eqx.filter(train_state.model, eqx.is_inexact_array)
    weight_norm = float(eqx.filter_jit(optax.tree.norm)(parameters))
    seen = (step - clock.first_step) * clock.recipe.batch_size
    row: Row = {
        "epoch": clock.epoch + 1,
        "loss": clock.mean("loss", totals.loss, step),
        "acc": int(totals.correct) / seen,
        "weight_norm": clock.check("weight_norm", weight_norm, step),
        "gradient_norm": clock.mean("gradient_norm", totals.gradient_norm, step),
    }
    row["seconds"], row["images_per_s"] = clock.read(step)
    return row
