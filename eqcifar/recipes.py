"""Named sets of options; whatever is given beside a recipe wins over it."""

from typing import Any

from .errors import unknown

# docs/reference/recipes.md names where each option is from.
_AIRBENCH94 = {
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
}

RECIPES: dict[str, dict[str, Any]] = {
    # The defaults of `TrainConfig`.
    "default": {},
    # Of sungyubkim/cifar_jax on 8 GPUs, as its table was made; beside it there are its
    # original-wrn28-10 and its vgg.
    "original": {
        "arch": "original-resnet18",
        "init": "lecun",
        "bn_group": 125,
        "mixup_group": 125,
    },
    # SGD on a network that two CPU cores can train, nearly as in airbench94.
    "airbench94": _AIRBENCH94,
    # For a GPU, nearly as in airbench96.
    "airbench96": {
        **_AIRBENCH94,
        "arch": "airbench96",
        "width": 1.0,
        "crop_pad": 4,
        "cutout": 12,
        "epochs": 37,
        "batch_size": 512,
        "lr": 0.587,
        "warmup": 0.1,
        "precision": "bf16",
        "eval_every": 37,
    },
    # Fewer epochs of it by Muon, nearly as in airbench94_muon.
    "fast": {
        **_AIRBENCH94,
        "epochs": 12,
        "lr": 0.2,
        "warmup": 0.0,
        "optimiser": "muon",
        "muon_lr": 0.08,
        "clip_norm": 0.0,
        "eval_every": 12,
    },
}


def recipe_options(name: str) -> dict[str, Any]:
    """The options of a recipe by their names in `TrainConfig`.

    **Raises:**

    `UsageError` when there is no such recipe.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return dict(RECIPES[name])
