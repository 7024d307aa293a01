import dataclasses
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..config import TrainConfig
from ..data import Dataset
from ..errors import EqcifarError
from ..losses import AnyLoss
from ..measures import check_measures
from ..parallel import is_main_process, make_mesh
from ..sharpness import Rows
from ..storage import Run, append_wide, keep_rows, read_wide
from ..training import Row, TrainState, steps_per_epoch
from ._compute_measure import measure_examples
from ._measured_network import MeasuredNetwork, SharpnessOptions
from ._row import sharpness_row


class SharpnessLog:
    """Measures sharpness along training, into `sharpness_log.tsv` of the run.

    Its methods are for `on_start` and `on_epoch` of `train_run`. Training is not
    affected: the same images and random vectors are used each time, which makes epochs
    comparable, and a measurement that fails is a warning.
    """

    def __init__(
        self,
        config: TrainConfig,
        every: int,
        measures: Iterable[str] = ("trace", "ntk"),
        options: SharpnessOptions | None = None,
        *,
        warn: Callable[[str], None] = warnings.warn,
        show: Callable[[int, dict[str, Any]], None] = lambda epoch, row: None,
        report: Callable[[int, str, int, int], None] = lambda *_: None,
        should_stop: Callable[[], bool] = lambda: False,
        loss: AnyLoss | None = None,
    ):
        """Nothing is measured yet.

        **Arguments:**

        - `config`: of the run.
        - `every`: epochs between measurements; the last epoch is always measured.
        - `measures`, `options`: see `measure_network`, without a split: they are taken
            of the training images; by default of 500.
        - `warn`: called with a line for a measurement that failed.
        - `show`: called with each epoch's row.
        - `report`: called with the epoch, the measure, work done, and the whole.
        - `should_stop`: asked meanwhile, as by `train_run`; what is left then is
            measured when the run goes on.
        - `loss`: of the run, if it is a function of one's own.
        """
        self._config, self._every = config, every
        self._measures = check_measures(measures)
        self._options = SharpnessOptions(samples=500) if options is None else options
        self._warn, self._show = warn, show
        self._report, self._should_stop, self._loss = report, should_stop, loss

    def on_start(self, run: Run, dataset: Dataset, train_state: TrainState):
        """Drop what a resumed run will measure again; catch up where a kill was."""
        self._dataset, self._path = dataset, run.path / "sharpness_log.tsv"
        self._per_epoch = steps_per_epoch(self._config, len(dataset.train))
        step = int(train_state.step)
        if not is_main_process():
            return
        epoch = step // self._per_epoch
        keep_rows(self._path, lambda row: int(row["epoch"]) <= epoch)
        done = {row["epoch"] for row in read_wide(self._path)}
        if epoch and step % self._per_epoch == 0 and str(epoch) not in done:
            self._measure(train_state, epoch)

    def on_epoch(self, train_state: TrainState, row: Row):
        """Measure if it is time to."""
        if is_main_process():
            self._measure(train_state, int(row["epoch"]))

    def _measure(self, train_state: TrainState, epoch: int):
        ended = train_state.has_ended(self._config, self._per_epoch)
        if epoch % self._every and not ended:
            return
        model, state = jax.tree.map(_local, (train_state.model, train_state.state))
        trained = MeasuredNetwork(
            path=self._path.parent,
            table=self._path,
            model=model,
            state=state,
            config=self._config,
            dataset=self._dataset,
            step=int(train_state.step),
            digest="",
            same_data=True,
            own_loss=self._loss,
        )
        options = self._options
        limit = len(self._dataset.train)
        if options.samples is not None and options.samples > limit:
            options = dataclasses.replace(options, samples=0)
        try:
            network = trained.network(options)
            # One device is enough for so little, and the others may be elsewhere.
            examples = trained.examples("train", options, make_mesh(1))
            rows: dict[str, Rows] = {}
            found = {
                name: measure_examples(
                    network,
                    examples,
                    name,
                    trained.loss(options),
                    options,
                    together=self._measures,
                    rows=rows,
                    start=trained.start,
                    report=partial(self._look, epoch, name),
                )
                for name in self._measures
            }
            row = {"epoch": epoch}
            row |= sharpness_row(trained, options, {"train": found})
            append_wide(self._path, row)
        except _Stopped:
            return
        except EqcifarError as error:
            self._warn(f"sharpness after epoch {epoch} was not measured: {error}")
            return
        self._show(epoch, row)

    def _look(self, epoch: int, name: str, done: int, total: int, *_: Any):
        if self._should_stop():
            raise _Stopped
        self._report(epoch, name, done, total)


class _Stopped(Exception):
    pass


def _local(leaf: Any) -> Any:
    # The state may lie on devices of several hosts, and its buffers are donated.
    return jnp.asarray(np.array(leaf)) if eqx.is_array(leaf) else leaf
