"""The fast recipe: accuracy and training time, and what each of its tricks brings.

    python -m benchmarks.fast_recipe --dataset FOLDER
    python -m benchmarks.fast_recipe --dataset FOLDER --ablate --seeds 3 --minutes 8
    python -m benchmarks.fast_recipe --dataset FOLDER --ablate --whole    # on a GPU

The first trains with `--recipe fast` on all images; killed, it goes on from the last
epoch. The second trains a third of the width on 10,000 images for 6 epochs, with the
recipe and with each of its tricks switched off or another value in its place, in turn,
all with each seed before the next, and measures on 5,000 other images of the training
split. The third does so with the recipe as it is. All keep what is done in
`benchmarks/results/`, so that calls add up.
"""

import argparse
import dataclasses
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import jax

from eqcifar import data, models, runs, training
from eqcifar.config import TrainConfig
from eqcifar.recipes import recipe_options

from .records import hardware_and_versions, read, store

# What is changed of the recipe; a learning rate is a multiple of its own.
VARIANTS = {
    "none": {},
    "no average of weights": {"ema": 0.0},
    "random flips": {"flip": "random"},
    "first layer not whitened": {"whiten": False},
    "BatchNorm's biases as slow as the rest": {"bn_bias_lr": 1.0},
    "no label smoothing": {"label_smoothing": 0.0},
    "cosine": {"schedule": "cosine"},
    "crops of 4 pixels": {"crop_pad": 4},
    "squares of 8 pixels cut out": {"cutout": 8},
    "L2 of biases and BatchNorm's parameters too": {"decay_bias": True},
    "L2 of 5e-4": {"weight_decay": 5e-4},
    "momentum 0.9, the same step": {"momentum": 0.9, "lr": 2 / 3},
    "half the learning rate": {"lr": 0.5},
    "twice the learning rate": {"lr": 2.0},
    "bfloat16": {"precision": "bf16"},
}
# What is changed of the evaluation alone, of the same networks.
VIEWS = {
    "no test-time crops": {"test_crop": False},
    "no test-time flips": {"test_flip": False},
    "neither": {"test_crop": False, "test_flip": False},
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--whole", action="store_true", help="ablate at full length")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="then stop")
    parser.add_argument("--grad-accum", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--out", type=Path, help="folder for the full run")
    args = parser.parse_args()
    given = dict(text.split("=", 1) for text in args.set)
    given = {name: json.loads(value) for name, value in given.items()}
    deadline = time.monotonic() + 60 * args.minutes
    if args.ablate:
        # The average is one of fewer steps.
        reduced = {"limit_train": 10_000, "width": 0.25, "epochs": 6, "ema": 0.95}
        given = {"val_size": 5000, **({} if args.whole else reduced), **given}
        ablate(args.dataset, given, args.seeds, deadline, args.grad_accum)
    else:
        out = args.out or Path(tempfile.gettempdir()) / "eqcifar-fast-recipe"
        for seed in range(args.seeds):
            train(args.dataset, {**given, "seed": seed}, out, deadline, args.grad_accum)


def train(dataset, given, out, deadline, grad_accum):
    """The whole recipe as a run in a folder, which goes on when called again."""
    config = TrainConfig.from_dict(
        {**recipe_options("fast"), "dataset": dataset, **given}
    )
    run = runs.train_run(
        config,
        out,
        grad_accum=grad_accum,
        hooks=runs.Hooks(
            on_epoch=lambda _, row: print(row, flush=True),
            should_stop=lambda: time.monotonic() > deadline,
        ),
    )
    if not run.is_done():
        print("not done yet: call it again to go on")
        return
    loaded = runs.load_model(run)
    images = data.load(dataset)
    accuracy = _accuracy(loaded, images.test, config)
    rows = run.log()
    seen = len(images.train) // config.batch_size * config.batch_size
    add(
        "fast_recipe",
        {"seed": config.seed, "config": _without_path(config)},
        {
            "dataset": Path(dataset).name,
            "train": len(images.train),
            "test": len(images.test),
            "accuracy": [accuracy.value, accuracy.low, accuracy.high],
            # By each epoch's speed, for `seconds` misses what came before a resumption.
            "training_seconds": sum(seen / row["images_per_s"] for row in rows),
            "images_per_s": statistics.median(row["images_per_s"] for row in rows),
            "log": rows,
        },
    )


def ablate(dataset, given, seeds, deadline, grad_accum):
    """The reduced recipe and its variants, one short run after another."""
    base = {**recipe_options("fast"), "eval_every": 1000, **given}
    for seed in range(seeds):
        images = data.load(
            dataset,
            val_size=base["val_size"],
            limit_train=base.get("limit_train", 0),
            seed=seed,
        )
        held_out = images.splits["val"]
        for name, changed in VARIANTS.items():
            values = {k: v * base[k] if k == "lr" else v for k, v in changed.items()}
            config = TrainConfig.from_dict({**base, **values, "seed": seed})
            case = {"changed": name, "seed": seed, "config": _without_path(config)}
            if case in [row["case"] for row in stored("fast_recipe_ablation")]:
                continue
            if time.monotonic() > deadline:
                print("not all done yet: call it again to go on")
                return
            network = models.create(
                config.arch,
                len(images.classes),
                width=config.width,
                key=training.random_stream(config.seed, "model"),
            )
            pixels = images.train.images
            start = training.initialise(*network, config, len(pixels), images=pixels)
            end, rows = training.fit(
                start, images, config.one_view(), grad_accum=grad_accum
            )
            result = {
                "dataset": Path(dataset).name,
                "train": len(images.train),
                "validation": len(held_out),
                "accuracy": _accuracy(end, held_out, config).value,
                "training_accuracy": rows[-1]["acc_tr"],
                "loss": rows[-1]["loss"],
                "training_seconds": sum(row["seconds"] for row in rows),
                # Two a multiply-add, and a step is three forward passes.
                "teraflop": 6e-12
                * models.count_multiply_adds(*network)
                * len(pixels)
                * config.epochs,
            }
            if not changed:
                views = {
                    view: dataclasses.replace(config, **of)
                    for view, of in VIEWS.items()
                }
                result["views"] = {
                    view: _accuracy(end, held_out, seen).value
                    for view, seen in views.items()
                }
            add("fast_recipe_ablation", case, result)
            print(f"seed {seed}  changed: {name}: {result}", flush=True)


def _accuracy(network, split, config):
    logits = training.predict(network.model, network.state, split.images, config)
    return training.evaluate(logits, split.labels, config.loss).accuracy


def _without_path(config):
    return {k: v for k, v in config.to_dict().items() if k != "dataset"}


def stored(name):
    return read(f"{name}_{jax.default_backend()}").get("rows", [])


def add(name, case, result):
    """Add a row to a file of results, in place of an earlier one of the same case."""
    rows = [row for row in stored(name) if row["case"] != case]
    # Its own: others may have been measured elsewhere.
    environment = hardware_and_versions()
    rows.append({"case": case, "environment": environment, **result})
    name = f"{name}_{jax.default_backend()}"
    notes = {key: text for key, text in read(name).items() if key == "note"}
    store(name, {**notes, "rows": rows})


if __name__ == "__main__":
    main()
