"""The fast recipe: accuracy and training time, and what each of its tricks brings.

    python -m benchmarks.fast_recipe --dataset FOLDER
    python -m benchmarks.fast_recipe --dataset FOLDER --ablate --seeds 3 --minutes 8

The first trains with `--recipe fast` on all images; killed, it goes on from the last
epoch. The second trains on fewer images for fewer epochs, with the recipe and with each
of its tricks switched off or another value in its place, in turn, all with each seed
before the next. Both keep what
is done in `benchmarks/results/`, so that calls add up.
"""

import argparse
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

from .records import RESULTS, store

# What is changed of the recipe; a learning rate is a multiple of its own.
VARIANTS = {
    "none": {},
    "random flips": {"flip": "random"},
    "no average of weights": {"ema": 0.0},
    "first layer not whitened": {"whiten": False},
    "cosine": {"schedule": "cosine"},
    "no label smoothing": {"label_smoothing": 0.0},
    "no test-time flips": {"test_flip": False},
    "squared error": {"loss": "mse"},
    "statistics of 32 images": {"bn_group": 32},
    "no L2 on biases": {"decay_bias": False},
    "momentum 0.85": {"momentum": 0.85},
    "momentum 0.95": {"momentum": 0.95},
    "half the learning rate": {"lr": 0.5},
    "twice the learning rate": {"lr": 2.0},
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--ablate", action="store_true")
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
        reduced = {"limit_train": 10_000, "epochs": 4, "eval_every": 4}
        ablate(
            args.dataset, {**reduced, **given}, args.seeds, deadline, args.grad_accum
        )
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
    logits = training.predict(loaded.model, loaded.state, images.test.images, config)
    accuracy = training.evaluate(logits, images.test.labels, config.loss).accuracy
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
    base = {**recipe_options("fast"), **given}
    defaults = TrainConfig().to_dict()
    images = data.load(dataset, limit_train=base["limit_train"])
    kept = {}
    for name, changed in VARIANTS.items():
        values = {k: v * base[k] if k == "lr" else v for k, v in changed.items()}
        before = {**defaults, **base}
        if not values or any(before[k] != v for k, v in values.items()):
            kept[name] = values
    for seed in range(seeds):
        for name, values in kept.items():
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
            pieces = grad_accum if config.bn_group else 1
            _, rows = training.fit(start, images, config, grad_accum=pieces)
            result = {
                "dataset": Path(dataset).name,
                "train": len(images.train),
                "test": len(images.test),
                "acc_te": rows[-1]["acc_te"],
                "loss": rows[-1]["loss"],
                "training_seconds": sum(row["seconds"] for row in rows),
            }
            add("fast_recipe_ablation", case, result)
            print(f"seed {seed}  changed: {name}: {result['acc_te']:.4f}", flush=True)


def _without_path(config):
    return {k: v for k, v in config.to_dict().items() if k != "dataset"}


def stored(name):
    path = RESULTS / f"{name}_{jax.default_backend()}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def add(name, case, result):
    """Add a row to a file of results, in place of an earlier one of the same case."""
    rows = [row for row in stored(name) if row["case"] != case]
    rows.append({"case": case, **result})
    store(f"{name}_{jax.default_backend()}", {"rows": rows})


if __name__ == "__main__":
    main()
