import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ._measuring import Json, LossName, OneHot, Out, RunPath
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
    loss: LossName = None,
    one_hot: OneHot = False,
    out: Out = Path("results"),
    as_json: Json = False,
):
    """Measure a trained network: accuracy, loss, calibration, with 95 % intervals."""
    from eqcifar import data, runs, storage
    from eqcifar.config import loss_title
    from eqcifar.errors import UsageError
    from eqcifar.training import evaluate as measure, predict

    from ._jax import keep_compilations

    keep_compilations()
    path = storage.latest_run(out).path if run is None else run
    loaded = runs.load_model(path)
    config = loaded.config
    if storage.Run(path).status().get("state") not in ("done", "unknown"):
        step = loaded.header["step"]
        print_warning(f"training of {path} is not finished: its network of step {step}")

    def is_same(found: data.Dataset) -> bool:
        return found.fingerprint == loaded.header["data"]["sha256"]

    if dataset is None:
        chosen = runs.data_of(path, config)
        if not is_same(chosen):
            print_warning(f"{chosen.name} is not the data that {path} was trained on")
    else:
        chosen = data.load(dataset)
    if len(chosen.classes) != len(loaded.classes):
        raise UsageError(
            f"{chosen.name} has {len(chosen.classes)} classes, but the network was "
            f"trained for {len(loaded.classes)}: choose data with as many"
        )
    if split not in chosen.splits:
        raise UsageError(
            f"there is no val split: the run held out no images (--val-size was "
            f"{config.val_size}); choose --split test or train"
        )
    part = chosen.splits[split]
    trained_on = split == "train" and dataset is None
    seen = config.one_view() if trained_on else config
    logits = predict(loaded.model, loaded.state, part.images, seen)
    loss_name = loss or config.loss
    smoothing = 0.0 if one_hot else config.label_smoothing
    evaluation = measure(logits, part.labels, loss_name, label_smoothing=smoothing)

    if as_json:
        values = dataclasses.asdict(evaluation)
        values["class_accuracy"] = dict(
            zip(chosen.classes, values["class_accuracy"], strict=True)
        )
        print_json(
            {
                "run": str(path),
                "arch": config.arch,
                "seed": config.seed,
                "trained_on": config.dataset,
                "dataset": chosen.name,
                "synthetic": chosen.synthetic,
                "same_data": is_same(chosen),
                "split": split,
                "loss_name": loss_name,
                "label_smoothing": smoothing,
                **values,
            }
        )
        return
    value = "SYNTHETIC" if chosen.synthetic else "value"
    print_table(
        f"{path}: {config.arch} on {evaluation.examples} {split} images of "
        f"{chosen.title}",
        ("measure", value, "95 % interval"),
        [
            ("top-1 accuracy", *_percent(evaluation.accuracy)),
            ("top-5 accuracy", *_percent(evaluation.accuracy_top5)),
            (
                f"{loss_title(loss_name, smoothing)}, per image",
                *_plain(evaluation.loss),
            ),
            ("expected calibration error", *_percent(evaluation.calibration_error)),
            (
                "the same, plug-in, biased upwards",
                f"{100 * evaluation.calibration_error.plugin:.2f} %",
                "",
            ),
            *(
                (f"accuracy on {name}", *_percent(interval))
                for name, interval in zip(
                    chosen.classes, evaluation.class_accuracy, strict=True
                )
            ),
        ],
    )


def _percent(interval: Any) -> tuple[str, str]:
    return (
        f"{100 * interval.value:.2f} %",
        f"{100 * interval.low:.2f} to {100 * interval.high:.2f} %",
    )


def _plain(interval: Any) -> tuple[str, str]:
    return f"{interval.value:.4f}", f"{interval.low:.4f} to {interval.high:.4f}"
