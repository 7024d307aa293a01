"""Named sets of options; whatever is given beside a recipe wins over it."""

from typing import Any

from .errors import UsageError

RECIPES: dict[str, dict[str, Any]] = {
    # The defaults of `TrainConfig`.
    "original": {},
    # 0.24 PFLOP for 50,000 images; docs/training.md names where each option is from.
    "fast": {
        "arch": "resnet18",
        "width": 0.375,
        "whiten": True,
        "flip": "alternating",
        "epochs": 10,
        "batch_size": 128,
        "lr": 0.2,
        "warmup": 0.2,
        "schedule": "linear",
        "loss": "ce",
        "label_smoothing": 0.1,
        "ema": 0.99,
        "bn_group": 32,
        "eval_every": 5,
        "test_flip": True,
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
