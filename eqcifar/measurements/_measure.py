import datetime
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
from jax.sharding import Mesh

from .. import sharpness
from ..errors import UsageError
from ..meanings import depends_on_loss
from ..parallel import make_mesh
from ..runs import environment
from ..sharpness import Estimate, Examples, Measured, Network
from ..storage import Cell, append_wide
from ._measured_network import SharpnessOptions, Subject
from ._unfinished import Partial

SUFFIXES = {"train": "", "test": "_te", "val": "_va"}


# What takes images one by one, which batch statistics couple.
_PER_IMAGE = "ntk", "ntk_mean", "unit", "gram"


Show = Callable[[str, str, int, int, Callable[[], Estimate | None]], None]


def measure_subject(
    subject: Subject,
    measures: Iterable[str],
    splits: Iterable[str],
    options: SharpnessOptions,
    *,
    devices: int | None = None,
    report: Show = lambda *_: None,
    warn: Callable[[str], None] = lambda message: None,
) -> dict[str, dict[str, Measured]]:
    """Measure a network on splits, going on where an equal call was interrupted.

    What is done is kept beside the network, every half minute and when `report` raises,
    until `forget_partial`.

    **Arguments:**

    - `measures`: names in `eqcifar.sharpness.MEASURES`, or `all`.
    - `report`: called with split, measure, work done, the whole, and what gives the
        estimate so far. It may raise, to stop.
    - `warn`: called with a line when nothing can be kept.

    **Returns:**

    What was found, by split and measure: the same bits, interrupted or not.
    """
    measures = sharpness.check_measures(measures)
    refused = [name for name in measures if name in _PER_IMAGE]
    if options.batch_statistics and refused:
        raise UsageError(
            f"batch statistics couple the examples, so {', '.join(refused)} cannot be "
            "measured with them: leave out --batch-statistics or these measures"
        )
    mesh = make_mesh(devices)
    network = subject.network(options)
    chosen = {name: subject.examples(name, options, mesh) for name in splits}
    unfinished = open_partial(subject, options, mesh, warn)
    found: dict[str, dict[str, Measured]] = {}
    for split, examples in chosen.items():
        found[split] = {}
        with unfinished.keeping(split) as (rows, save):
            for name in measures:
                label = f"{split}-{name}"
                if label not in unfinished.finished:
                    measured = measure_examples(
                        subject,
                        network,
                        examples,
                        name,
                        options,
                        rows=rows,
                        report=saving(partial(report, split, name), save),
                    )
                    unfinished.finish(label, measured)
                found[split][name] = unfinished.finished[label]
    return found


def measure_examples(
    subject: Subject,
    network: Network,
    examples: Examples,
    name: str,
    options: SharpnessOptions,
    **more: Any,
) -> Measured:
    """One of the measures, as the options have it; `more` for `sharpness.measure`."""
    return sharpness.measure(
        network,
        examples,
        name,
        subject.loss(options),
        probes=options.probes,
        top=options.top,
        rtol=options.rtol,
        target=options.target,
        memory=1e9 * options.memory * examples.devices,
        key=jax.random.key(options.seed),
        **more,
    )


def saving(
    report: Callable[..., None], save: Callable[[], None]
) -> Callable[..., None]:
    """Report, and save now and then."""

    def both(*work):
        report(*work)
        save()

    return both


def open_partial(
    subject: Subject,
    options: SharpnessOptions,
    mesh: Mesh,
    warn: Callable[[str], None] = lambda message: None,
    what: str = "measures",
) -> Partial:
    """What an equal call left unfinished: the same network, options and machine.

    Everything goes into its name on which bits are promised to depend.
    """
    where = environment(mesh.size)
    del where["git"]
    parts = (
        *(what, subject.digest, subject.dataset.fingerprint, repr(options)),
        json.dumps(where, sort_keys=True, default=str),
    )
    fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return Partial(subject.table, fingerprint, warn)


def sharpness_row(
    subject: Subject,
    options: SharpnessOptions,
    found: Mapping[str, Mapping[str, Measured]],
) -> dict[str, Cell]:
    """The row of `sharpness.tsv` for what was found."""
    row = first_columns(subject, options)
    for split, measures in found.items():
        seen = [e.examples for m in measures.values() for e in m.values.values()]
        row[f"examples{SUFFIXES[split]}"] = max(seen, default=0)
    for split, measures in found.items():
        for measured in measures.values():
            for name, estimate in measured.values.items():
                column = column_name(subject, options, name, split)
                row[column] = estimate.value
                row[f"{column}_se"] = estimate.standard_error
                if name in measured.bounds:
                    row[f"{column}_bound"] = measured.bounds[name]
    return row


def column_name(
    subject: Subject, options: SharpnessOptions, name: str, split: str
) -> str:
    """The column of a measure: what is not the run's own loss or mode is named."""
    loss, smoothing = subject.loss_name(options), subject.label_smoothing(options)
    if depends_on_loss(name):
        if loss != subject.config.loss:
            name = f"{name}_{loss}"
        if smoothing != subject.config.label_smoothing:
            name = f"{name}_onehot"
    if options.batch_statistics:
        name = f"{name}_trainmode"
    return name + SUFFIXES[split]


def first_columns(subject: Subject, options: SharpnessOptions) -> dict[str, Cell]:
    """The first columns of a row: when, on what and how."""
    dataset = subject.dataset
    numbers = jax.tree.leaves(eqx.filter(subject.model, eqx.is_inexact_array))
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": "SYNTHETIC" if dataset.synthetic else dataset.name,
        "step": subject.step,
        "loss_name": subject.loss_name(options),
        "loss_smoothing": subject.label_smoothing(options),
        "target": options.target,
        "precision": str(numbers[0].dtype),
        **({"batch_size": options.batch_size} if options.batch_statistics else {}),
        "probes": options.probes,
        "sample_seed": options.seed,
    }


def record(
    subject: Subject,
    options: SharpnessOptions,
    found: Mapping[str, Mapping[str, Measured]],
    *,
    devices: int | None = None,
):
    """Append what was found to the subject's table; it need not be kept elsewhere.

    What was found on other images than those of its training is not appended.

    **Raises:**

    `RunError` when the table cannot be written; then nothing is lost.
    """
    if subject.same_data:
        append_wide(subject.table, sharpness_row(subject, options, found))
    open_partial(subject, options, make_mesh(devices)).forget()
