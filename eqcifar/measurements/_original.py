import dataclasses

import jax
import numpy as np

from .. import sharpness
from ..errors import UsageError
from ..parallel import make_mesh
from ..sharpness import HowMany, Original
from ._measured_network import MeasuredNetwork, SharpnessOptions
from ._row import columns_of, first_columns
from ._work import Show, Warn, Work, silent


def plan_network(
    trained: MeasuredNetwork,
    split: str,
    options: SharpnessOptions,
    rtol: float,
    *,
    devices: int | None = None,
) -> HowMany:
    """How many images and random vectors tr H of a split takes, from a pilot.

    **Raises:**

    `UsageError` when `rtol` is not between 0 and 1, or the whole split is not enough.
    """
    if not 0 < rtol < 1:
        raise UsageError(
            "how-many, the relative half-width to plan for, must be between 0 and 1, "
            f"not {rtol:g}: 0.05 is 5 %"
        )
    if options.batch_statistics:
        raise UsageError("a plan is for a sum over images: use running statistics")
    return sharpness.how_many(
        trained.network(options),
        trained.examples(split, options, make_mesh(devices)),
        trained.loss(options),
        rtol=rtol,
        key=jax.random.key(options.seed),
    )


def measure_original(
    trained: MeasuredNetwork,
    options: SharpnessOptions,
    original_devices: int = 8,
    *,
    devices: int | None = None,
    report: Show = silent,
    warn: Warn = silent,
    append: bool = True,
) -> Original:
    """The columns of sungyubkim/cifar_jax, over whole splits in their stored order.

    Its batch is the run's, and so is its weight decay. An equal call goes on where one
    was interrupted.

    **Arguments:**

    - `original_devices`: on which its `tr_hess` depends.
    - `report`, `warn`: called as by `measure_network`.
    - `append`: append them to the network's table.
    """
    if options.samples is not None:
        raise UsageError("the original measures whole splits: leave out --samples")
    if options.loss == "ce" or options.batch_statistics:
        raise UsageError("the original measures mse with running statistics")
    if options.patterns:
        raise UsageError("the original measures all parameters: leave out --only")
    options = dataclasses.replace(options, loss="mse", one_hot=True)
    what = f"original {original_devices}"
    work = Work(trained, options, what, devices=devices, warn=warn)
    whole = SharpnessOptions(samples=0, batch_size=options.batch_size)
    splits = [trained.examples(name, whole, work.mesh) for name in ("train", "test")]
    train, test = (examples.take(np.sort(examples.order)) for examples in splits)

    def show(done: int, total: int, pieces: sharpness.Rows):
        report("original", "traces", done, total, lambda: None)

    with work.keeping("original", show) as kept, sharpness.keeping(*kept):
        original = sharpness.original_traces(
            trained.network(options),
            train,
            test,
            weight_decay=trained.config.weight_decay,
            batch_size=trained.config.batch_size,
            devices=original_devices,
            probes=options.probes,
            key=jax.random.key(options.seed),
        )
    row = first_columns(trained, options) | {
        "examples": len(train),
        "examples_te": len(test),
        "original_devices": original_devices,
    }
    for name, estimate in original.columns.items():
        row |= columns_of(name, estimate)
    work.append(row if append else None)
    return original
