"""How the numbers of `eqcifar sharpness` are shown."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from eqcifar import sharpness
from eqcifar.fields import format_estimate
from eqcifar.measurements import MeasuredNetwork, SharpnessOptions, SharpnessTable
from eqcifar.measures import meaning
from eqcifar.sharpness import Estimate, Measured

from ._measuring import plus_minus
from ._output import print_json, print_table

Found = Mapping[str, Mapping[str, Measured]]


def print_found(table: SharpnessTable):
    """A table a split, and under it what the numbers rest on."""
    for text in table.texts():
        sign = {"±": plus_minus()}
        columns = [sign.get(name, name) for name in text.columns]
        print_table(text.title, columns, text.rows, left=("meaning",))
        if text.notes:
            typer.echo("\n".join(text.notes).replace("±", plus_minus()))


def _value(trained: MeasuredNetwork) -> str:
    return "SYNTHETIC" if trained.dataset.synthetic else "value"


def print_shares(
    trained: MeasuredNetwork, found: Found, layers: bool, classes: bool, sharpest: int
):
    """What the trace of the GGN is made of: layers, classes, images."""
    for split, measures in found.items():
        shares = measures["trace"].tables if "trace" in measures else {}
        names = trained.dataset.classes
        if layers:
            rows = [(r["name"], r["value"], r["half"]) for r in shares["layers"]]
            total = sum(value for _, value, _ in rows) or 1.0
            print_table(
                f"tr_ggn by parameter array, {split}",
                ("parameters", _value(trained), plus_minus(), "share"),
                [
                    (
                        name,
                        *format_estimate(value, half),
                        f"{100 * value / total:.1f} %",
                    )
                    for name, value, half in rows
                ],
            )
        if classes:
            print_table(
                f"tr_ggn by class, {split}",
                ("class", _value(trained), plus_minus()),
                [
                    (names[r["name"]], *format_estimate(r["value"], r["half"]))
                    for r in shares["classes"]
                ],
            )
        if sharpest:
            print_table(
                f"Sharpest images, {split}",
                ("position", "tr_ggn", "class"),
                [
                    (str(at), f"{trace:.5g}", names[label])
                    for at, label, trace in shares["examples"][:sharpest]
                ],
                left=("class",),
            )


def to_json(
    trained: MeasuredNetwork,
    options: SharpnessOptions,
    found: Found,
    penalty: float,
    sharpest: int,
) -> dict[str, Any]:
    """Everything at full precision."""
    loss = trained.loss_name(options)
    return {
        **header(trained, options),
        "options": dataclasses.asdict(options),
        "penalty": penalty,
        "splits": {
            split: {
                "values": {
                    name: {
                        **estimate_to_json(estimate),
                        "bound": measured.bounds.get(name),
                        "meaning": meaning(name, loss),
                    }
                    for measured in measures.values()
                    for name, estimate in measured.values.items()
                },
                "tables": {
                    name: table[:sharpest] if name == "examples" else table
                    for measured in measures.values()
                    for name, table in measured.tables.items()
                },
            }
            for split, measures in found.items()
        },
    }


def print_checkpoints(path: Path, found: Sequence[Mapping[str, Any]]):
    """A table a split: of each network along training, every value and its half."""
    for split, first in found[0]["splits"].items():
        names = list(first["values"])
        rows = []
        for each in found:
            values, cells = each["splits"][split]["values"], []
            for name in names:
                half = (values[name]["high"] - values[name]["low"]) / 2
                cells += format_estimate(
                    values[name]["value"], half + (values[name]["bound"] or 0.0)
                )
            rows.append((str(each["epoch"]), *cells))
        mark = " of SYNTHETIC images" if found[0]["synthetic"] else ""
        columns = [part for name in names for part in (name, plus_minus())]
        print_table(f"{path} along training, {split}{mark}", ("epoch", *columns), rows)
    if "train" in found[0]["splits"] and (wrong := found[0]["wrong_labels"]):
        typer.echo(f"train: by the labels that are given, of which {wrong} are wrong.")


def header(trained: MeasuredNetwork, options: SharpnessOptions) -> dict[str, Any]:
    """What is measured, as JSON."""
    return {
        "run": str(trained.path),
        "arch": trained.config.arch,
        "seed": trained.config.seed,
        "step": trained.step,
        "dataset": trained.dataset.name,
        "synthetic": trained.dataset.synthetic,
        "same_data": trained.same_data,
        "loss_name": trained.loss_name(options),
        "label_smoothing": trained.label_smoothing(options),
        "wrong_labels": trained.dataset.train.wrong,
    }


def estimate_to_json(estimate: Estimate) -> dict[str, Any]:
    """An estimate with its error and interval."""
    low, high = estimate.interval()
    extra = {"standard_error": estimate.standard_error, "low": low, "high": high}
    return dataclasses.asdict(estimate) | extra


def print_plan(
    trained: MeasuredNetwork,
    split: str,
    options: SharpnessOptions,
    plan: sharpness.HowMany,
    rtol: float,
    as_json: bool,
):
    """How many images and random vectors a precision takes, and the command."""
    loss = trained.loss(options)
    size = len(trained.dataset.splits[split])
    plans = {"random": plan.random, "exact": plan.exact}
    if as_json:
        print_json(
            {**header(trained, options), "split": split, **dataclasses.asdict(plan)}
        )
        return
    print_table(
        f"For tr_hess ({loss}) {plus_minus()} {100 * rtol:g} % (95 %) of {size} "
        f"{split} images, from a pilot of {plan.examples}",
        ("vectors", "--samples", "--probes", "products", "expected"),
        [
            (
                name,
                str(p.examples),
                str(p.probes),
                str(p.examples * (p.probes or plan.classes)),
                f"{plus_minus()} {100 * p.reached:.2f} %",
            )
            for name, p in plans.items()
            if p is not None
        ],
    )
    best = plan.random
    typer.echo(
        f"One image tells the trace to {100 * math.sqrt(plan.pilot.data):.0f} %, one "
        f"random vector adds {100 * math.sqrt(plan.pilot.mixed):.0f} %.\n"
        f"Next: eqcifar sharpness {trained.path} --split {split} "
        f"--samples {best.examples} --probes {best.probes}"
        + (f" --loss {options.loss}" if options.loss else "")
        + (" --one-hot" if options.one_hot else "")
    )


def print_original(
    trained: MeasuredNetwork, original: sharpness.Original, devices: int, as_json: bool
):
    """The original's six columns, with their defects beside them."""
    if as_json:
        columns = {k: estimate_to_json(e) for k, e in original.columns.items()}
        factors = {"penalty": original.penalty, "divisor": original.divisor}
        extra = {"columns": columns, **factors, "defects": original.defects}
        original_loss = SharpnessOptions(loss="mse", one_hot=True)
        print_json({**header(trained, original_loss), **extra})
        return
    print_table(
        f"{trained.path}: the original's convention on {devices} devices, "
        f"{trained.dataset.title}",
        ("column", _value(trained), plus_minus(), "meaning"),
        [
            (k, *format_estimate(e.value, e.half_width()), meaning(k, "mse"))
            for k, e in original.columns.items()
        ],
        left=("meaning",),
    )
    typer.echo(
        f"Its tr_hess is (tr_hess[mse] + {original.penalty:.6g}) / {original.divisor:g}"
        ", with two defects:"
    )
    for defect in original.defects:
        typer.echo(f"- {defect}")
