"""Named sets of options; whatever is given beside a recipe wins over it."""

from typing import Any

from .errors import UsageError

RECIPES: dict[str, dict[str, Any]] = {
    # The defaults of `TrainConfig`.
    "original": {},
    # Like airbench94, with a network that two CPU cores can train. docs/training.md
    # names where each option is from.
    "fast": {
        "arch": "airbench94",
        "width": 0.75,
        "whiten": True,
        "flip": "alternating",
        "crop_pad": 2,
        "epochs": 15,
        "batch_size": 256,
        "lr": 0.375,
        "bn_bias_lr": 64.0,
        "warmup": 0.23,
        "schedule": "linear",
        "momentum": 0.85,
        "weight_decay": 8e-4,
        "decay_bias": False,
        "loss": "ce",
        "label_smoothing": 0.2,
        "ema": 0.99,
        "eval_every": 15,
        "test_flip": True,
        "test_crop": True,
    },
}


def recipe_options(name: str) -> dict[str, Any]:
    """The options of a recipe by their names in `TrainConfig`.

    **Raises:**

    `UsageError` when there is no such recipe.
    """
    if name not in RECIPES:
        raise UsageError(f"no recipe {name!r}: there are {', '.join(RECIPES)}")
    return dict(RECIPES[name])
