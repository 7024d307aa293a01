"""Accuracy and training time of a recipe, from nothing to the test split.

Killed, it goes on from the last checkpoint when called again.

    python -m benchmarks recipe --dataset FOLDER --recipe fast
    python -m benchmarks recipe --dataset FOLDER --recipe airbench96 --seeds 2
    python -m benchmarks recipe --dataset FOLDER --set precision='"bf16"'
"""

import json
import statistics
import tempfile
from pathlib import Path

import jax

from eqcifar import data, runs, training
from eqcifar.config import TrainConfig
from eqcifar.recipes import RECIPES, recipe_options

from .shared import parser, row, store


def main(argv: list[str]):
    """Train with each seed, then keep accuracy and time."""
    options = parser(__doc__)
    options.add_argument("--dataset", required=True, help="folder of images")
    options.add_argument("--recipe", default="fast", choices=[*RECIPES])
    options.add_argument("--set", action="append", default=[], metavar="NAME=JSON")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--out", type=Path, help="folder for the runs")
    args = options.parse_args(argv)
    words = (word.partition("=") for word in args.set)
    given = {name: json.loads(value) for name, _, value in words}
    out = args.out or Path(tempfile.gettempdir()) / "eqcifar-recipe"
    accuracies, seconds = [], []
    for seed in range(args.seeds):
        fields = {
            **recipe_options(args.recipe),
            **given,
            "dataset": args.dataset,
            "seed": seed,
        }
        config = TrainConfig.from_dict(fields)
        run = runs.train_run(config, out)
        loaded, images = runs.load_model(run), data.load(config.dataset)
        logits = training.predict(
            loaded.model, loaded.state, images.test.images, config
        )
        found = training.evaluate(logits, images.test.labels, config.loss).accuracy
        assert abs(found.value - run.log()[-1]["acc_te"]) < 1e-3
        accuracies.append(found)
        # By each epoch's speed, for `seconds` misses what came before a resumption.
        seen = len(images.train) // config.batch_size * config.batch_size
        seconds.append(sum(seen / each["images_per_s"] for each in run.log()))
    what = " ".join([args.recipe, *args.set])
    n = len(accuracies)
    mean = statistics.fmean(a.value for a in accuracies)
    one = accuracies[0]
    low = one.low if n == 1 else min(a.value for a in accuracies)
    high = one.high if n == 1 else max(a.value for a in accuracies)
    store(
        f"recipe_{jax.default_backend()}",
        [
            row(what, "test accuracy", mean, low, high, n),
            row(what, "training, s", statistics.median(seconds), n=n),
        ],
    )
