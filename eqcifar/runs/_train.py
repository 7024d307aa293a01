import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from .. import models
from ..config import INITS, TrainConfig
from ..data import Dataset
from ..errors import EqcifarError, RunError, UsageError, is_out_of_memory
from ..losses import AnyLoss
from ..parallel import everywhere, make_mesh, memory_limit, peak_memory
from ..storage import Run, append_row, cut_log, keep_rows, run_path, total_seconds
from ..training import (
    AnyOptimiser,
    Diverged,
    Interrupted,
    Model,
    Progress,
    Row,
    Schedule,
    TrainState,
    check_recipe,
    copied,
    fit,
    initialise,
    make_recipe,
    random_stream,
    steps_per_epoch,
)
from ._alike import check_alike, check_shared
from ._checkpoints import load_checkpoint, load_model, save_checkpoint, save_model
from ._description import FolderCheck, check_same, describe, load_data, named_config
from ._environment import differences, environment
from ._lock import RunLock

# A share of the time. On a GPU, an epoch can be as short as writing a checkpoint.
_MOST_TIME_SAVING = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """What to call while a run is trained.

    - `on_start`: with the run, the data and a copy of the first state, whose `step` is
        not 0 when a run is resumed.
    - `on_compiled`, `on_progress`, `on_step`, `on_epoch`, `should_stop`: as in
        `eqcifar.training.fit`.
    - `on_save`: on the process that writes files, with the steps done, just before a
        checkpoint; what it keeps by that number is there when a run goes on from it.
    - `warn`: with a line about what makes the digits differ from those of an
        uninterrupted run.

    With `lend`, the states are no copies, but lent as by `eqcifar.training.fit`.
    """

    on_start: Callable[[Run, Dataset, TrainState], None] | None = None
    on_compiled: Callable[[int | None], None] = lambda memory: None
    on_progress: Callable[[Progress], None] = lambda progress: None
    on_step: Callable[[int, TrainState], None] | None = None
    on_epoch: Callable[[TrainState, Row], None] | None = None
    on_save: Callable[[int], None] = lambda step: None
    should_stop: Callable[[], bool] = lambda: False
    warn: Callable[[str], None] = warnings.warn
    lend: bool = False

    def given(self, train_state: TrainState) -> TrainState:
        """The state as `on_start` and `on_epoch` are given it."""
        return train_state if self.lend else copied(train_state)


def train_run(
    config: TrainConfig,
    root: str | os.PathLike[str] = "results",
    *,
    devices: int | None = None,
    grad_accum: int = 1,
    remat: bool = False,
    keep_every: int = 0,
    hooks: Hooks = Hooks(),
) -> Run:
    """Train what a configuration describes, or go on with it, and keep everything.

    **Arguments:**

    - `config`: data, network and recipe.
    - `root`: the folder of all runs; this one's is `run_path(root, config)`. It is made
        once data and network are found to fit.
    - `devices`: how many share each batch; all by default.
    - `grad_accum`, `remat`: as in `eqcifar.training.fit`.
    - `keep_every`: keep the network of the start, of every so many epochs and of the
        end, a model file each, see `Run.checkpoints`; 0: none.
    - `hooks`: called meanwhile.

    **Returns:**

    The run. Its `status()["state"]` is "done", or "interrupted" when `should_stop`
    said so; call this again to go on. A run that is done is not trained again; it is
    compared with the images where these are a local folder.
    Checkpoints take at most a twentieth of the time: where epochs are short, not every
    one is followed by one, and a process that is killed or fails loses some epochs.

    **Raises:**

    `UsageError` when it cannot be trained as asked, for instance because another
    process is at it; `Diverged`; `RunError` when a file cannot be written or read.
    """
    # Before any of them looks for a folder of its own.
    check_alike({"config": config.to_dict()})
    run = Run(run_path(root, config))
    if run.is_done():
        everywhere(lambda: FolderCheck().check(run, config))
        return run
    models.check_name(config.arch)
    config.check_parts()
    mesh = make_mesh(devices)
    dataset = everywhere(lambda: load_data(config))
    create = partial(
        models.create,
        config.arch,
        len(dataset.classes),
        **config.variant,
        init=config.init,
        key=random_stream(config.seed, "model"),
    )
    everywhere(partial(_check_size, create, config, mesh))
    network = everywhere(partial(_from_file, create, config))
    start = _initialise(*(network or create()), config, dataset)
    what = describe(config, dataset, start.model, start.state)
    how = mesh, grad_accum, remat, keep_every, hooks
    _train(run, dataset, start, config, what, {}, *how)
    return run


def train_run_with(
    path: str | os.PathLike[str],
    dataset: Dataset,
    model: Model,
    state: eqx.nn.State,
    config: TrainConfig,
    *,
    loss: AnyLoss | None = None,
    optimiser: AnyOptimiser | None = None,
    schedule: Schedule | None = None,
    about: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    grad_accum: int = 1,
    remat: bool = False,
    keep_every: int = 0,
    hooks: Hooks = Hooks(),
) -> Run:
    """Train one's own network on one's own data as `train_run` does.

    **Arguments:**

    - `path`: the folder of this run.
    - `dataset`: the data.
    - `model`, `state`: as `eqx.nn.make_with_state` made them.
    - `config`: the recipe. Written down is `named_config` of it: data, network, loss,
        optimiser and schedule go by their own names.
    - `loss`, `optimiser`, `schedule`: as in `eqcifar.training.fit`.
    - `about`: what else tells the run from others, such as `{"noise": 0.2}`, or the
        numbers of one's own optimiser, which its name does not tell: numbers and texts
        by name. They become columns of tables, and can be filtered by.
    - `mesh`, `grad_accum`, `remat`: as in `eqcifar.training.fit`.
    - `keep_every`: as in `train_run`.

    The others, the result and the errors are those of `train_run`. A run that is done,
    or goes on, is compared with all of these: recipe, names, `about`, the data by its
    SHA-256, the network by its class and the names, shapes and dtypes of its arrays.

    **Returns:**

    The run, as from `train_run`.
    """
    parts = {"loss": loss, "optimiser": optimiser, "schedule": schedule}
    config = named_config(config, dataset, model, state, **parts)
    run = Run(Path(path))
    what = describe(config, dataset, model, state, about=about, in_python=True)
    if run.is_done():
        check_same(run.path, run.description(), what)
        return run
    mesh = make_mesh() if mesh is None else mesh
    start = _initialise(model, state, config, dataset, **parts)
    how = mesh, grad_accum, remat, keep_every, hooks
    _train(run, dataset, start, config, what, parts, *how)
    return run


def _check_size(
    create: Callable[[], tuple[Model, eqx.nn.State]], config: TrainConfig, mesh: Mesh
):
    # Shapes only: nothing is allocated.
    model, _ = eqx.filter_eval_shape(create)
    count = models.count_parameters(model)
    # Parameters and momentum, in float32.
    least, limit = 8 * count, memory_limit(mesh)
    if limit is not None and least > limit:
        raise UsageError(
            f"{config.arch} at width {config.width:g} has {count:,} parameters, whose "
            f"training takes more than {least / 1e9:,.1f} GB; a device has "
            f"{limit / 1e9:,.1f} GB: lower --width"
        )


def _from_file(
    create: Callable[[], tuple[Model, eqx.nn.State]], config: TrainConfig
) -> tuple[Model, eqx.nn.State] | None:
    """The network that `config.init` names, if it names one."""
    if not config.starts_from_file:
        return None
    path = Path(config.init)
    if not path.exists():
        raise UsageError(
            f"init = {config.init!r}: must be {' or '.join(INITS)}, or a run or model "
            "file, and there is no such file or folder"
        )
    try:
        loaded = load_model(path, like=eqx.filter_eval_shape(create))
    except EqcifarError as error:
        raise UsageError(f"init = {config.init!r}: {error}") from error
    return loaded.model, loaded.state


def _initialise(
    model: Model,
    state: eqx.nn.State,
    config: TrainConfig,
    dataset: Dataset,
    **parts: Any,
) -> TrainState:
    images = dataset.train.images
    if config.starts_from_file:
        config = dataclasses.replace(config, whiten=False)
    return initialise(model, state, config, len(images), images=images, **parts)


def _train(
    run: Run,
    dataset: Dataset,
    train_state: TrainState,
    config: TrainConfig,
    what: dict[str, Any],
    parts: Mapping[str, Any],
    mesh: Mesh,
    grad_accum: int,
    remat: bool,
    keep_every: int,
    hooks: Hooks,
):
    how = {"devices": mesh.size, "grad_accum": grad_accum, "remat": remat}
    check_alike(what | how | {"keep_every": keep_every})
    # What cannot be trained is to leave no folder.
    recipe = make_recipe(config, len(dataset.train), **parts)
    check_recipe(train_state, dataset, recipe, mesh, grad_accum)
    path = run.path

    def check():
        if (path / "config.json").exists():
            check_same(path, run.description(), what)

    lock = RunLock(run, config, check)
    last, log = path / "last.safetensors", path / "log.tsv"
    env = environment(mesh.size, grad_accum=grad_accum, remat=remat)
    # The same numbers are to be the same file, whichever commit wrote it.
    written_by = {name: value for name, value in env.items() if name != "git"}
    per_epoch = steps_per_epoch(config, len(dataset.train))

    def prepare(epoch):
        lock.describe(what, env)
        # Measures of a network that is about to be trained anew hold for none.
        keep_rows(path / "sharpness.tsv", lambda row: row.get("step") == str(steps))
        rows = cut_log(log, epoch)
        if rows < epoch:
            hooks.warn(f"{log} has lost {epoch - rows} of {epoch} rows")
        # Of a training that begins anew, none of the earlier one's.
        for file in run.checkpoints():
            if file not in map(run.checkpoint, range(epoch + 1)):
                file.unlink()
        lock.report("running", epoch)

    def keep(train_state, epoch):
        file = run.checkpoint(epoch)
        file.parent.mkdir(exist_ok=True)
        save_model(file, train_state, config, dataset, written_by, about=what["about"])

    # The quickest counts, or one write that stalled would put off the next for hours.
    next_save, quickest = 0.0, math.inf

    def save(train_state):
        nonlocal next_save, quickest
        hooks.on_save(int(train_state.step))
        began = monotonic()
        save_checkpoint(
            last, train_state, config, dataset, written_by, about=what["about"]
        )
        quickest = min(quickest, monotonic() - began)
        next_save = began + quickest / _MOST_TIME_SAVING

    def end_epoch(train_state, row):
        epoch = int(row["epoch"])

        def write():
            # The row first: rows too many are cut off again, one too few is lost.
            append_row(log, row)
            is_last = config.ends_at(epoch, row["loss"])
            if keep_every and (is_last or epoch % keep_every == 0):
                keep(train_state, epoch)
            if is_last or monotonic() >= next_save:
                save(train_state)
            lock.report("running", epoch)

        lock.write(write)
        if hooks.on_epoch is not None:
            hooks.on_epoch(hooks.given(train_state), row)

    def check_fits(memory):
        limit = memory_limit(mesh)
        if memory is not None and limit is not None and memory > limit:
            raise RunError(
                _too_large(
                    f"a step needs {memory / 1e9:.1f} GB on a device, which has "
                    f"{limit / 1e9:.1f} GB",
                    config,
                )
            )

    def compiled(memory):
        everywhere(partial(check_fits, memory))
        lock.write(lambda: lock.describe_memory(step_planned_bytes=memory))
        hooks.on_compiled(memory)

    def finish(train_state):
        lock.describe_memory(peak_bytes=peak_memory(mesh))
        file = path / "model.safetensors"
        save_model(file, train_state, config, dataset, written_by, about=what["about"])
        # The log's sum, so that tables of many runs need not read all of each log.
        ended = int(train_state.step) // per_epoch
        lock.report("done", ended, seconds=total_seconds(log))

    with lock:
        if last.exists():
            train_state = _resume(last, train_state, what, env, hooks.warn)
        steps = int(train_state.step)
        epoch = steps // per_epoch
        lock.write(lambda: prepare(epoch))
        everywhere(partial(check_shared, path / "config.json"))
        if keep_every and not steps:
            lock.write(lambda: keep(train_state, 0))
        if hooks.on_start is not None:
            hooks.on_start(run, dataset, hooks.given(train_state))
        try:
            train_state, _ = fit(
                train_state,
                dataset,
                config,
                **parts,
                mesh=mesh,
                grad_accum=grad_accum,
                remat=remat,
                on_compiled=compiled,
                on_progress=hooks.on_progress,
                on_step=hooks.on_step,
                on_epoch=end_epoch,
                should_stop=hooks.should_stop,
                lend=True,
            )
        except Interrupted as interrupted:
            stopped = interrupted.train_state
            message = f"stopped after step {int(stopped.step)}"
            if not _is_finite(stopped):
                # Started again, it would come to the same.
                raise Diverged(
                    f"{message}, at which training had diverged, so that it was not "
                    "saved: lower the learning rate"
                ) from None
            lock.write(lambda: save(stopped))
            epoch = int(stopped.step) // per_epoch
            lock.write(lambda: lock.report("interrupted", epoch, message))
            return
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(_too_large("out of device memory", config)) from error
        lock.write(lambda: finish(train_state))


def _too_large(what: str, config: TrainConfig) -> str:
    return (
        f"{what}: take a smaller --batch-size than {config.batch_size}, a smaller "
        "--width, more devices, --grad-accum, --remat or --precision bf16"
    )


def _resume(
    path: Path,
    like: TrainState,
    what: dict[str, Any],
    env: dict[str, Any],
    warn: Callable[[str], None],
) -> TrainState:
    train_state, header = load_checkpoint(path, like)
    check_same(path, header, what)
    if changed := differences(header.get("environment", {}), env):
        warn(
            f"{path} was written elsewhere, so expect other digits than an "
            f"uninterrupted run's: {', '.join(changed)}"
        )
    return train_state


def _is_finite(train_state: TrainState) -> bool:
    numbers = jax.tree.leaves(eqx.filter(train_state, eqx.is_inexact_array))
    return all(math.isfinite(float(jnp.abs(x).max(initial=0.0))) for x in numbers)
