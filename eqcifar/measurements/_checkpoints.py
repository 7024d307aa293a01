import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx

from ..data import Dataset
from ..errors import UsageError
from ..losses import AnyLoss
from ..sharpness import Measured
from ..storage import Run, append_once
from ..training import Model, steps_per_epoch
from ._measure_network import measure_network
from ._measured_network import MeasuredNetwork, SharpnessOptions, open_network
from ._row import sharpness_row
from ._work import Show, Warn, Work, silent

# Of an epoch, its network, and what was found of it.
OnCheckpoint = Callable[
    [int, MeasuredNetwork, Mapping[str, Mapping[str, Measured]]], Any
]


def measure_checkpoints(
    path: str | os.PathLike[str],
    measures: Iterable[str],
    splits: Iterable[str],
    options: SharpnessOptions,
    *,
    devices: int | None = None,
    like: tuple[Model, eqx.nn.State] | None = None,
    dataset: Dataset | None = None,
    loss: AnyLoss | None = None,
    report: Callable[[int], Show] = lambda epoch: silent,
    warn: Warn = silent,
    on_checkpoint: OnCheckpoint = silent,
):
    """Measure all networks that a run kept, into its `sharpness_log.tsv`.

    An equal call goes on where one was interrupted, with the same bits, and appends no
    row twice. The same images and random vectors are used for all.

    **Arguments:**

    - `path`: the folder of a run that was trained with `keep_every`.
    - `measures`, `splits`, `options`, `devices`: as for `measure_network`.
    - `like`, `dataset`, `loss`: as for `open_network`.
    - `report`: called with an epoch; what it gives is called as by `measure_network`.
    - `warn`: called with a line when nothing can be kept.
    - `on_checkpoint`: called with each epoch, its network and what was found of it.

    **Raises:**

    `UsageError` when there are none, and as `open_network` and `measure_network`.
    """
    run = Run(Path(path))
    files = run.checkpoints()
    if not files:
        raise UsageError(
            f"{run.path} has no networks along its training: train it with --keep-every"
        )
    measures, splits, works = list(measures), list(splits), []
    for file in files:
        trained = open_network(file, like, dataset, loss)
        trained = dataclasses.replace(trained, table=run.path / "sharpness_log.tsv")
        dataset = trained.dataset
        per_epoch = steps_per_epoch(trained.config, len(dataset.train))
        epoch = trained.step // per_epoch
        found = measure_network(
            trained,
            measures,
            splits,
            options,
            devices=devices,
            report=report(epoch),
            warn=warn,
        )
        if trained.same_data:
            row = {"epoch": epoch} | sharpness_row(trained, options, found)
            append_once(trained.table, row, but="time")
        on_checkpoint(epoch, trained, found)
        # Without the network, for all of them are a lot of memory.
        named = dataclasses.replace(trained, model=None, state=None)
        works.append(Work(named, options, "measures", devices=devices))
    for work in works:
        work.unfinished.forget()
