r"""The fast recipes: accuracy and training time, and what each of the tricks brings.

    python -m benchmarks.fast_recipe --dataset FOLDER
    python -m benchmarks.fast_recipe --dataset FOLDER --recipe airbench96 --seeds 2
    python -m benchmarks.fast_recipe --dataset FOLDER --ablate --seeds 3 --minutes 8
    python -m benchmarks.fast_recipe --dataset FOLDER --ablate --whole    # on a GPU
    python -m benchmarks.fast_recipe --dataset FOLDER --whole --workers 8 \
        --try "width=1.0 epochs=9" --try muon_lr=0.12                     # likewise

The first two train with a recipe, `fast` or another, on all images; killed, they go on
from the last epoch. The third trains a width of 0.25 on 10,000 images for 6 epochs,
with the recipe and with each of its tricks switched off or another value in its place,
in turn, all with each seed before the next, and measures on 5,000 other images of the
training split. The fourth does so with the recipe as it is. The fifth takes the values
that are given; workers share the machine, so their times are not kept. All keep what is
done in `benchmarks/results/`, so that calls add up.
"""

import argparse
import dataclasses
import functools
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import jax

from eqcifar import data, models, runs, training
from eqcifar.config import TrainConfig
from eqcifar.recipes import RECIPES, recipe_options

from .records import hardware_and_versions, read, store

# What is changed of the recipe; a learning rate is a multiple of its own.
VARIANTS = {
    "none": {},
    "SGD for all": {"muon_lr": 0.0},
    "SGD for all, as `airbench94` but at twice its learning rate": {
        "muon_lr": 0.0,
        "lr": 3.75,
        "warmup": 0.23,
        "clip_norm": 5.0,
    },
    "half of Muon's learning rate": {"muon_lr": 0.5},
    "twice Muon's learning rate": {"muon_lr": 2.0},
    "half the learning rate of the others": {"lr": 0.5},
    "twice the learning rate of the others": {"lr": 2.0},
    "Muon's momentum 0.8": {"muon_momentum": 0.8},
    "no average of weights": {"ema": 0.0},
    "random flips": {"flip": "random"},
    "first layer not whitened": {"whiten": False},
    "BatchNorm's biases as slow as the rest": {"bn_bias_lr": 1.0},
    "no label smoothing": {"label_smoothing": 0.0},
    "warm-up of 23 %": {"warmup": 0.23},
    "cosine": {"schedule": "cosine"},
    "crops of 4 pixels": {"crop_pad": 4},
    "squares of 8 pixels cut out": {"cutout": 8},
    "L2 of biases and BatchNorm's parameters too": {"decay_bias": True},
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
    parser.add_argument("--dataset", required=True, help="folder of images")
    parser.add_argument("--recipe", default="fast", choices=[*RECIPES])
    parser.add_argument("--ablate", action="store_true", help="fast, in small")
    parser.add_argument("--try", action="append", dest="tries", metavar="NAME=JSON ...")
    parser.add_argument("--whole", action="store_true", help="not the reduced recipe")
    parser.add_argument("--workers", type=int, default=1, help="networks at a time")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="then stop")
    parser.add_argument("--grad-accum", type=int, default=1)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="a field of TrainConfig; may be repeated",
    )
    parser.add_argument("--out", type=Path, help="folder for the full run")
    args = parser.parse_args()
    if args.ablate and args.recipe != "fast":
        parser.error("--ablate is of the fast recipe: leave out --recipe")
    recipe = {**recipe_options(args.recipe), "dataset": args.dataset}
    given = values(args.set)
    deadline = time.monotonic() + 60 * args.minutes
    if not (args.ablate or args.tries):
        out = args.out or Path(tempfile.gettempdir()) / "eqcifar-fast-recipe"
        for seed in range(args.seeds):
            config = TrainConfig.from_dict({**recipe, **given, "seed": seed})
            train(config, out, deadline, args.grad_accum)
        return
    # The average is one of fewer steps.
    reduced = {"limit_train": 10_000, "width": 0.25, "epochs": 6, "ema": 0.95}
    reduced = {} if args.whole else reduced
    base = {**recipe, "eval_every": 1000, "val_size": 5000, **reduced, **given}
    if args.ablate:
        rates = {"lr", "muon_lr"}
        variants = {
            name: {k: v * base[k] if k in rates else v for k, v in changed.items()}
            for name, changed in VARIANTS.items()
        }
        file = "fast_recipe_ablation"
    else:
        variants = {text: values(text.split()) for text in args.tries}
        file = f"{'fast_recipe' if args.recipe == 'fast' else args.recipe}_search"
    cases = [
        (name, TrainConfig.from_dict({**base, **changed, "seed": seed}))
        for seed in range(args.seeds)
        for name, changed in variants.items()
    ]
    measure_all(file, cases, args.workers, deadline, args.grad_accum)


def values(words):
    """Fields of a configuration, each given as NAME=JSON."""
    given = (word.partition("=") for word in words)
    return {name: json.loads(value) for name, _, value in given}


def train(config, out, deadline, grad_accum):
    """The whole recipe as a run in a folder, which goes on when called again."""
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
    images = data.load(config.dataset)
    accuracy = _accuracy(loaded, images.test, config)
    rows = run.log()
    seen = len(images.train) // config.batch_size * config.batch_size
    add(
        "fast_recipe",
        {"seed": config.seed, "config": _without_path(config)},
        {
            "dataset": Path(config.dataset).name,
            "train": len(images.train),
            "test": len(images.test),
            "accuracy": [accuracy.value, accuracy.low, accuracy.high],
            # By each epoch's speed, for `seconds` misses what came before a resumption.
            "training_seconds": sum(seen / row["images_per_s"] for row in rows),
            "images_per_s": statistics.median(row["images_per_s"] for row in rows),
            "log": rows,
        },
    )


def measure_all(file, cases, workers, deadline, grad_accum):
    """Networks in processes of their own, `workers` at a time."""
    # Or the first process on a GPU takes the memory of all.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    done = [row["case"] for row in stored(file)]
    spawn = multiprocessing.get_context("spawn")
    left_out = failed = 0
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        futures = {}
        for name, config in cases:
            case = {
                "changed": name,
                "seed": config.seed,
                "config": _without_path(config),
            }
            if case not in done:
                future = pool.submit(
                    measure, config, name == "none", deadline, grad_accum
                )
                futures[future] = case
        for future in as_completed(futures):
            case = futures[future]
            # One that diverges takes none of the others with it.
            if error := future.exception():
                failed += 1
                print(f"seed {case['seed']}  {case['changed']}: {error!r}", flush=True)
                continue
            result = future.result()
            if result is None:
                left_out += 1
                continue
            if workers > 1:
                result["training_seconds"] = None
            add(file, case, result)
            print(f"seed {case['seed']}  {case['changed']}: {result}", flush=True)
    if left_out:
        print(f"{left_out} not done yet: call it again to go on")
    if failed:
        raise SystemExit(f"{failed} failed, see above")


load = functools.lru_cache(maxsize=1)(data.load)


def measure(config, with_views, deadline, grad_accum):
    """Train on a part of the training split and measure on another."""
    if time.monotonic() > deadline:
        return None
    images = load(
        config.dataset,
        val_size=config.val_size,
        limit_train=config.limit_train,
        seed=config.seed,
    )
    held_out, pixels = images.splits["val"], images.train.images
    network = models.create(
        config.arch,
        len(images.classes),
        width=config.width,
        key=training.random_stream(config.seed, "model"),
    )
    start = training.initialise(*network, config, len(pixels), images=pixels)
    end, rows = training.fit(start, images, config.one_view(), grad_accum=grad_accum)
    result = {
        "dataset": Path(config.dataset).name,
        "train": len(pixels),
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
    if with_views:
        result["views"] = {
            view: _accuracy(end, held_out, dataclasses.replace(config, **changed)).value
            for view, changed in VIEWS.items()
        }
    return result


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
