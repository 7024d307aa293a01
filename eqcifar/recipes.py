"""Named sets of options; whatever is given beside a recipe wins over it."""

from typing import Any

from .errors import UsageError

RECIPES: dict[str, dict[str, Any]] = {
    # The defaults of `TrainConfig`.
    "original": {},
    # A network that pools early, which a CPU is quick at, for as many epochs as two
    # cores do in 20 minutes. docs/training.md names where each option is from.
    "fast": {
        "arch": "vgg11",
        "width": 0.5,
        "whiten": True,
        "flip": "alternating",
        "epochs": 26,
        "batch_size": 256,
        "lr": 0.4,
        "warmup": 0.2,
        "schedule": "linear",
        "loss": "ce",
        "label_smoothing": 0.1,
        "ema": 0.99,
        "eval_every": 13,
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
