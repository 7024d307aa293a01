import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from .. import sharpness
from ..errors import UsageError
from ..parallel import make_mesh
from ..sharpness import HowMany, Original
from ..storage import append_wide
from ._measure import Show, first_columns, open_partial, saving
from ._measured_network import SharpnessOptions, Subject


def plan_subject(
    subject: Subject,
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
        subject.network(options),
        subject.examples(split, options, make_mesh(devices)),
        subject.loss(options),
        rtol=rtol,
        key=jax.random.key(options.seed),
    )


def measure_original(
    subject: Subject,
    options: SharpnessOptions,
    original_devices: int = 8,
    *,
    devices: int | None = None,
    report: Show = lambda *_: None,
    warn: Callable[[str], None] = lambda message: None,
    keep: bool = True,
) -> Original:
    """The columns of sungyubkim/cifar_jax, over whole splits in their stored order.

    Its batch is the run's, and so is its weight decay. An equal call goes on where one
    was interrupted.

    **Arguments:**

    - `original_devices`: on which its `tr_hess` depends.
    - `report`, `warn`: called as by `measure_subject`.
    - `keep`: append them to the subject's table.
    """
    if options.samples is not None:
        raise UsageError("the original measures whole splits: leave out --samples")
    if options.loss == "ce" or options.batch_statistics:
        raise UsageError("the original measures mse with running statistics")
    options = dataclasses.replace(options, loss="mse", one_hot=True)
    mesh = make_mesh(devices)
    whole = SharpnessOptions(samples=0, batch_size=options.batch_size)
    splits = [subject.examples(name, whole, mesh) for name in ("train", "test")]
    train, test = (examples.take(np.sort(examples.order)) for examples in splits)
    what = f"original {original_devices}"
    unfinished = open_partial(subject, options, mesh, warn, what)
    with unfinished.keeping("original") as (rows, save):
        original = sharpness.original_traces(
            subject.network(options),
            train,
            test,
            weight_decay=subject.config.weight_decay,
            batch_size=subject.config.batch_size,
            devices=original_devices,
            probes=options.probes,
            key=jax.random.key(options.seed),
            done=rows,
            report=saving(_follow(report), save),
        )
    if keep and subject.same_data:
        row = first_columns(subject, options) | {
            "examples": len(train),
            "examples_te": len(test),
            "original_devices": original_devices,
        }
        for name, estimate in original.columns.items():
            row[name], row[f"{name}_se"] = estimate.value, estimate.standard_error
        append_wide(subject.table, row)
    unfinished.forget()
    return original


def _follow(report: Show) -> Callable[[int, int], None]:
    return lambda done, total: report("original", "traces", done, total, lambda: None)
