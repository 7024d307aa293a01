"""Named sets of options; whatever is given beside a recipe wins over it."""

from typing import Any

from .errors import UsageError

RECIPES: dict[str, dict[str, Any]] = {
    # The defaults of `TrainConfig`.
    "original": {},
    # For a CPU: see docs/training.md for what each option brings.
    "fast": {
        "arch": "resnet18",
        "width": 0.25,
        "epochs": 12,
        "batch_size": 128,
        "loss": "ce",
        "lr": 0.2,
        "warmup": 0.2,
        "schedule": "linear",
        "label_smoothing": 0.1,
        "flip": "alternating",
        "whiten": True,
        "ema": 0.99,
        "test_flip": True,
        "eval_every": 4,
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
