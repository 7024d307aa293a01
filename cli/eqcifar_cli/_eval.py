import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from eqcifar.config import PARTS, loss_title

from ._measuring import Json, Out, RunPath
from ._output import print_json, print_table, print_warning


def evaluate(
    run: RunPath = None,
    split: Annotated[
        Literal["test", "train", "val"],
        typer.Option(help="Which images; val needs a run with --val-size."),
    ] = "test",
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            help="Other data with as many classes, named as in `eqcifar train`; the "
            "run's own by default.",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(PARTS["loss"]),
            help="The run's own by default.",
            show_default=False,
        ),
    ] = None,
    one_hot: Annotated[
        bool,
        typer.Option(
            "--one-hot",
            help="Take the loss against one-hot labels, even where training smoothed "
            "them.",
        ),
    ] = False,
    out: Out = Path("results"),
    as_json: Json = False,
):
    """Measure a trained network: accuracy, loss, calibration, with 95 % intervals."""
    from eqcifar import runs, storage

    from ._jax import keep_compilations

    keep_compilations()
    path = storage.latest_run(out).path if run is None else run
    found = runs.evaluate_run(
        path,
        split=split,
        dataset=dataset,
        loss=loss,
        one_hot=one_hot,
        warn=print_warning,
    )
    if as_json:
        print_json(_to_json(path, found))
    else:
        _print(path, found)


def _to_json(path: Path, found: Any) -> dict[str, Any]:
    classes, values = found.dataset.classes, dataclasses.asdict(found.evaluation)
    true = found.true_accuracy
    by_class = dict(zip(classes, values["class_accuracy"], strict=True))
    return {
        "run": str(path),
        "arch": found.config.arch,
        "seed": found.config.seed,
        "trained_on": found.config.dataset,
        "dataset": found.dataset.name,
        "synthetic": found.dataset.synthetic,
        "same_data": found.same_data,
        "split": found.split,
        "loss_name": found.loss_name,
        "label_smoothing": found.label_smoothing,
        **values,
        **({"true_accuracy": dataclasses.asdict(true)} if true else {}),
        "class_accuracy": by_class,
    }


def _print(path: Path, found: Any):
    dataset, measured = found.dataset, found.evaluation
    calibration, true = measured.calibration_error, found.true_accuracy
    title = loss_title(found.loss_name, found.label_smoothing)
    classes = zip(dataset.classes, measured.class_accuracy, strict=True)
    print_table(
        f"{path}: {found.config.arch} on {measured.examples} {found.split} images of "
        f"{dataset.title}",
        ("measure", "SYNTHETIC" if dataset.synthetic else "value", "95 % interval"),
        [
            ("top-1 accuracy", *_percent(measured.accuracy)),
            *([("the same, on true labels", *_percent(true))] if true else []),
            ("top-5 accuracy", *_percent(measured.accuracy_top5)),
            (f"{title}, per image", *_plain(measured.loss)),
            ("expected calibration error", *_percent(calibration)),
            ("the same, plug-in, biased upwards", _share(calibration.plugin), ""),
            *((f"accuracy on {name}", *_percent(each)) for name, each in classes),
        ],
    )


def _percent(interval: Any) -> tuple[str, str]:
    low, high = 100 * interval.low, 100 * interval.high
    return _share(interval.value), f"{low:.2f} to {high:.2f} %"


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


def _plain(interval: Any) -> tuple[str, str]:
    return f"{interval.value:.4f}", f"{interval.low:.4f} to {interval.high:.4f}"
