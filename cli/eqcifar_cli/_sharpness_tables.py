"""How the numbers of `eqcifar sharpness` are shown."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from eqcifar import sharpness
from eqcifar.measurements import MeasuredNetwork, SharpnessOptions
from eqcifar.measures import meaning
from eqcifar.sharpness import Estimate, Measured

from ._measuring import format_estimate, plus_minus
from ._output import describe_wrong, print_json, print_table

Found = Mapping[str, Mapping[str, Measured]]


def print_found(
    trained: MeasuredNetwork, options: SharpnessOptions, found: Found, penalty: float
):
    """A table a split, and under it what the numbers rest on."""
    loss = trained.loss_name(options)
    for split, measures in found.items():
        rows = []
        for measured in measures.values():
            for name, estimate in measured.values.items():
                cells = _cells(estimate, measured.bounds.get(name))
                rows.append((name, *cells, meaning(name, loss)))
        most = max(e.examples for m in measures.values() for e in m.values.values())
        print_table(
            f"{trained.path}: {trained.config.arch} on {most} of "
            f"{len(trained.dataset.splits[split])} {split} images of "
            f"{trained.dataset.title}, {trained.loss(options)}",
            ("measure", _value(trained), plus_minus(), "images", "meaning"),
            rows,
            left=("meaning",),
        )
    typer.echo(_notes(trained, options, found, penalty))


def _value(trained: MeasuredNetwork) -> str:
    return "SYNTHETIC" if trained.dataset.synthetic else "value"


def _cells(estimate: Estimate, bound: float | None) -> tuple[str, str, str]:
    half = estimate.half_width() + (bound or 0.0)
    return (*format_estimate(estimate.value, half), str(estimate.examples))


def _notes(
    trained: MeasuredNetwork, options: SharpnessOptions, found: Found, penalty: float
) -> str:
    whose = {"split": "the split", "population": "the population it is from"}
    lines = [
        f"{plus_minus()}: half the 95 % interval of the value over "
        f"{whose[options.target]} (--json has both ends, which lean where terms are "
        "skewed); of lmax and lambda, and the bound within which an eigenvalue lies; "
        "empty where one image tells nothing."
    ]
    terms = [e for ms in found.values() for m in ms.values() for e in m.values.values()]
    lines += _fitted_note(found) + _rise_note(found)
    if any(e.data_error and e.examples < 50 for e in terms):
        lines.append("From under 50 images, intervals hold the truth in under 95 %.")
    traces = [measures["trace"] for measures in found.values() if "trace" in measures]
    paths = [measured.tables["path"] for measured in traces]
    lines += _path_note(paths[0]) if paths else []
    train = trained.dataset.train
    if "train" in found and train.true_labels is not None:
        lines.append(
            f"train: by the labels that are given, of which {describe_wrong(train)} "
            "are wrong."
        )
    mode = "each batch" if options.batch_statistics else "running statistics"
    lines.append(
        f"Normalised by {mode}, without augmentation and dropout. Weight decay is left "
        f"out: it would add lambda P = {penalty:.6g} to tr_hess."
    )
    return "\n".join(lines)


def _fitted_note(found: Found) -> list[str]:
    values = {
        k: e for ms in found.values() for m in ms.values() for k, e in m.values.items()
    }
    fitted = {k: e for k, e in values.items() if e.bias}
    if not fitted:
        return []
    names = dict.fromkeys(re.sub(r"_\d+$", "", name) for name in fitted)
    few = any(e.examples < 200 for e in fitted.values())
    return [
        f"{', '.join(names)}: fitted to these images, and so biased upwards; what "
        "halves of them show of that is taken off (bias in --json) and counts as an "
        "error."
        + (" From under 200 images, intervals hold the truth in 70 to 100 %." * few)
    ]


def _rise_note(found: Found) -> list[str]:
    """How often intervals of rises held the truth: `benchmarks/coverage_fitted.py`."""
    values = [
        (k, e)
        for ms in found.values()
        for m in ms.values()
        for k, e in m.values.items()
    ]
    lines = []
    if any(k.startswith("sam") and e.bias for k, e in values):
        lines.append(
            "sam: more bias may be left. In tests, 95 % intervals held the value over "
            "all images in 85 to 100 % of draws."
        )
    if any(k.startswith("average") and e.probes < 10 for k, e in values):
        lines.append(
            "average: from 5 directions, 95 % intervals held the truth in 68 to 96 %."
        )
    return lines


def _path_note(path: Mapping[str, Any]) -> list[str]:
    curved = len(path["curved"])
    return {
        "exact": [
            "Logits are piecewise affine in each parameter array: tr_hess = tr_ggn."
        ],
        "control": [
            f"Logits are curved in {curved} parameter arrays taken alone: tr_resid is "
            "estimated."
        ],
        "general": [
            "The loss is no sum over images: random directions throughout. From few "
            "batches, intervals hold the truth in 90 to 95 %."
        ],
    }[path["method"]]


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
            (k, *_cells(e, None)[:2], meaning(k, "mse"))
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
