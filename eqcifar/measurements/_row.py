"""The row of `sharpness.tsv` that a measurement is."""

import datetime
from collections.abc import Mapping

import equinox as eqx
import jax

from .. import measures
from ..measures import SUFFIXES
from ..sharpness import Estimate, Measured
from ..storage import Cell
from ._measured_network import MeasuredNetwork, SharpnessOptions


def sharpness_row(
    trained: MeasuredNetwork,
    options: SharpnessOptions,
    found: Mapping[str, Mapping[str, Measured]],
) -> dict[str, Cell]:
    """The row of `sharpness.tsv` for what was found."""
    row = first_columns(trained, options)
    most = {
        split: max(
            (e.examples for m in parts.values() for e in m.values.values()),
            default=0,
        )
        for split, parts in found.items()
    }
    row |= {f"examples{SUFFIXES[split]}": count for split, count in most.items()}
    for split, parts in found.items():
        for measured in parts.values():
            for name, estimate in measured.values.items():
                column = column_name(trained, options, name, split)
                row |= columns_of(column, estimate)
                if name in measured.bounds:
                    row[f"{column}_bound"] = measured.bounds[name]
                if 0 < estimate.examples < most[split]:
                    row[f"{column}_examples"] = estimate.examples
    return row


def column_name(
    trained: MeasuredNetwork, options: SharpnessOptions, name: str, split: str
) -> str:
    """The column of a measure of a network, see `eqcifar.measures.column_name`."""
    return measures.column_name(name, split, trained.config, options)


def first_columns(
    trained: MeasuredNetwork, options: SharpnessOptions
) -> dict[str, Cell]:
    """The first columns of a row: when, on what and how."""
    dataset = trained.dataset
    numbers = jax.tree.leaves(eqx.filter(trained.model, eqx.is_inexact_array))
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": "SYNTHETIC" if dataset.synthetic else dataset.name,
        "step": trained.step,
        "loss_name": trained.loss_name(options),
        "loss_smoothing": trained.label_smoothing(options),
        **({"labels": "given"} if dataset.train.true_labels is not None else {}),
        "target": options.target,
        "precision": str(numbers[0].dtype),
        **({"batch_size": options.batch_size} if options.batch_statistics else {}),
        "probes": options.probes,
        "sample_seed": options.seed,
    }


def columns_of(name: str, estimate: Estimate) -> dict[str, Cell]:
    """The columns of an estimate: its value and its standard error."""
    return {name: estimate.value, f"{name}_se": estimate.standard_error}
