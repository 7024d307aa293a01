import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32, PRNGKeyArray, UInt8

from .. import data
from ._augmentations import Inputs, Keys, Targets
from ._recipe import Recipe


class Epoch(eqx.Module):
    """What the steps of an epoch are given: arrays, so that one program serves all.

    - `images`, `labels`: the training set.
    - `order`: in which the epoch visits it.
    - `key`: of the run's seed.
    - `classes`: how many there are.
    """

    images: UInt8[Array, "n height width 3"]
    labels: Int32[Array, " n"]
    order: Int32[Array, " n"]
    key: PRNGKeyArray
    classes: int = eqx.field(static=True)


def make_batch(
    epoch: Epoch,
    chosen: Int32[Array, " batch"],
    recipe: Recipe,
    dtype: jnp.dtype,
    *,
    flip: Bool[Array, " batch"] | None,
    keys: Keys,
) -> tuple[Inputs, Targets]:
    """What a step sees of the examples that it has chosen.

    **Arguments:**

    - `epoch`: the training set.
    - `chosen`: places in it.
    - `recipe`: the augmentations, the normalisation, what happens to labels.
    - `dtype`: of the result.
    - `flip`: which to mirror, in place of a draw.
    - `keys`: for what is random.

    **Returns:**

    Normalised inputs, and targets that are distributions over the classes.
    """
    images, view = epoch.images[chosen], recipe.view
    targets = recipe.loss.targets(epoch.labels[chosen], epoch.classes, dtype)
    if recipe.crop_pad is not None:
        images = data.augment(keys.augment, images, flip, pad=recipe.crop_pad)
    inputs = data.normalise(images, view.mean, view.std, dtype)
    for augmentation in recipe.augmentations:
        inputs, targets = augmentation(keys, inputs, targets)
    return inputs, targets


def alternating_flip(
    key: PRNGKeyArray, examples: Int32[Array, " batch"], epoch: Int32[Array, ""]
) -> Bool[Array, " batch"]:
    """Which examples are mirrored in an epoch, if each is in every second one.

    Half of them, drawn by `key`, begin with it in epoch 0. So two epochs in a row show
    every example from both sides, which random flips do for half of them.

    Jordan 2024, section 3.6, https://arxiv.org/abs/2404.00498

    **Arguments:**

    - `key`: the same in all epochs.
    - `examples`: their places in the training set.
    - `epoch`: counted from 0.
    """

    def first(example):
        return jax.random.bernoulli(jax.random.fold_in(key, example))

    return jax.vmap(first)(examples) ^ (epoch % 2 == 1)
