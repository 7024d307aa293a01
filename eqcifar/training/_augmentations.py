"""What a batch goes through before the network; `AUGMENTATIONS` names it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .. import data
from ..config import TrainConfig


class Keys(NamedTuple):
    """Of one step: `augment` for crops and flips, whoever comes later folds in."""

    augment: PRNGKeyArray
    mixup: PRNGKeyArray


Inputs = Float[Array, "batch channels height width"]
Targets = Float[Array, "batch classes"]
# augmentation(keys, normalised inputs, targets) -> inputs, targets
Augmentation = Callable[[Keys, Inputs, Targets], tuple[Inputs, Targets]]


def cutout(config: TrainConfig) -> Augmentation:
    """A square of each image: see `eqcifar.data.cutout`."""

    def apply(keys, inputs, targets):
        # Folding in 0 or 1 may give the keys into which `data.augment` splits this one.
        key = jax.random.fold_in(keys.augment, 2)
        return data.cutout(key, inputs, config.cutout), targets

    return apply


def erase(config: TrainConfig) -> Augmentation:
    """A rectangle of random pixels in some images: see `eqcifar.data.erase`."""

    def apply(keys, inputs, targets):
        key = jax.random.fold_in(keys.augment, 3)
        how = config.erase, config.mean, config.std
        return data.erase(key, inputs, *how), targets

    return apply


def mixup(config: TrainConfig) -> Augmentation:
    """Mixtures of two examples: see `eqcifar.data.mixup`."""

    def apply(keys, inputs, targets):
        return data.mixup(keys.mixup, inputs, targets, config.mixup, config.mixup_group)

    return apply


def cutmix(config: TrainConfig) -> Augmentation:
    """A box of another image: see `eqcifar.data.cutmix`."""

    def apply(keys, inputs, targets):
        # Folding in 0 or 1 may give the keys into which the weights of MixUp split it.
        key = jax.random.fold_in(keys.mixup, 2)
        how = config.cutmix, config.cutmix_probability
        return data.cutmix(key, inputs, targets, *how)

    return apply


# Each by the option that asks for it, unless that is 0, and in this order.
AUGMENTATIONS: dict[str, Callable[[TrainConfig], Augmentation]] = {
    "cutout": cutout,
    "erase": erase,
    "mixup": mixup,
    "cutmix": cutmix,
}
