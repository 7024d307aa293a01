"""The fast recipe: accuracy and training time, and what each of its tricks brings.

    python -m benchmarks.fast_recipe --dataset FOLDER
    python -m benchmarks.fast_recipe --dataset FOLDER --ablate --seeds 3 --minutes 8

The first trains with `--recipe fast` on all images; killed, it goes on from the last
epoch. The second trains on fewer images for fewer epochs, with the recipe and with each
of its tricks switched off in turn, all with each seed before the next. Both keep what
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

from eqcifar import data, runs, training
from eqcifar.config import TrainConfig
from eqcifar.recipes import recipe_options

from .records import RESULTS, store

# A trick, and the values that switch it off.
OFF = {
    "none": {},
    "alternating flips": {"flip": "random"},
    "average of weights": {"ema": 0.0},
    "whitened first layer": {"whiten": False},
    "linear schedule": {"schedule": "cosine"},
    "label smoothing": {"label_smoothing": 0.0},
    "test-time flips": {"test_flip": False},
    "cross-entropy": {"loss": "mse"},
    "no L2 on biases": {"decay_bias": True},
}
# Other values of what the recipe has, to see that they are no better.
OTHER = {
    "momentum 0.85": {"momentum": 0.85},
    "momentum 0.95": {"momentum": 0.95},
    "half the learning rate": {"lr": 0.5},
    "twice the learning rate": {"lr": 2.0},
    "L2 on biases": {"decay_bias": True},
    "no L2 on biases": {"decay_bias": False},
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="then stop")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--out", type=Path, help="folder for the full run")
    args = parser.parse_args()
    given = dict(text.split("=", 1) for text in args.set)
    given = {name: json.loads(value) for name, value in given.items()}
    deadline = time.monotonic() + 60 * args.minutes
    if args.ablate:
        reduced = {"limit_train": 10_000, "epochs": 4, "eval_every": 4}
        ablate(args.dataset, {**reduced, **given}, args.seeds, deadline)
    else:
        out = args.out or Path(tempfile.gettempdir()) / "eqcifar-fast-recipe"
        for seed in range(args.seeds):
            train(args.dataset, {**given, "seed": seed}, out, deadline)


def train(dataset, given, out, deadline):
    """The whole recipe as a run in a folder, which goes on when called again."""
    config = TrainConfig.from_dict(
        {**recipe_options("fast"), "dataset": dataset, **given}
    )
    # Once more at the deadline: epochs that are done are kept.
    run = runs.train_run(
        config,
        out,
        grad_accum=1,
        on_epoch=lambda _, row: print(row, flush=True),
        should_stop=lambda: time.monotonic() > deadline,
    )
    if not run.is_done():
        print("not done yet: call it again to go on")
        return
    loaded = runs.load_model(run)
    images = data.load(dataset)
    logits = training.predict(loaded.model, loaded.state, images.test.images, config)
    accuracy = training.evaluate(logits, images.test.labels, config.loss).accuracy
    rows = run.log()
    add(
        "fast_recipe",
        {"seed": config.seed, "config": _without_path(config)},
        {
            "dataset": images.title,
            "train": len(images.train),
            "test": len(images.test),
            "accuracy": [accuracy.value, accuracy.low, accuracy.high],
            "training_seconds": sum(row["seconds"] for row in rows),
            "images_per_s": statistics.median(row["images_per_s"] for row in rows),
            "log": rows,
        },
    )


def ablate(dataset, given, seeds, deadline):
    """The reduced recipe with each trick off, one short run after another."""
    base = {**recipe_options("fast"), **given}
    images = data.load(dataset, limit_train=base["limit_train"])
    kept = {}
    for name, off in {**OFF, **OTHER}.items():
        values = off | ({"lr": off["lr"] * base["lr"]} if "lr" in off else {})
        new = any(base.get(k, _default(k)) != v for k, v in values.items())
        if new or name == "none":
            kept[name] = values
    for seed in range(seeds):
        for name, values in kept.items():
            config = TrainConfig.from_dict({**base, **values, "seed": seed})
            case = {"off": name, "seed": seed, "config": _without_path(config)}
            if case in [row["case"] for row in stored("fast_recipe_ablation")]:
                continue
            if time.monotonic() > deadline:
                print("not all done yet: call it again to go on")
                return
            model, state = runs_network(config, len(images.classes))
            pixels = images.train.images
            start = training.initialise(
                model, state, config, len(pixels), images=pixels
            )
            _, rows = training.fit(start, images, config)
            result = {
                "dataset": images.title,
                "train": len(images.train),
                "test": len(images.test),
                "acc_te": rows[-1]["acc_te"],
                "loss": rows[-1]["loss"],
                "training_seconds": sum(row["seconds"] for row in rows),
            }
            add("fast_recipe_ablation", case, result)
            print(f"seed {seed}  without {name}: {result['acc_te']:.4f}", flush=True)


def runs_network(config, classes):
    from eqcifar import models

    key = training.random_stream(config.seed, "model")
    return models.create(config.arch, classes, width=config.width, key=key)


def _default(name):
    return getattr(TrainConfig(), name)


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
