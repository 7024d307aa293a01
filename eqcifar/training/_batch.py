import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray, UInt8

from .. import data
from ..config import TrainConfig


class Epoch(eqx.Module):
    """What the steps of an epoch are given: arrays, so that one program serves all.

    - `images`, `labels`: the training set.
    - `order`: in which the epoch visits it.
    - `key`: of the run's seed.
    """

    images: UInt8[Array, "n height width 3"]
    labels: Int32[Array, " n"]
    order: Int32[Array, " n"]
    key: PRNGKeyArray


Batch = tuple[
    Float[Array, "batch channels height width"], Float[Array, "batch classes"]
]


def make_batch(
    epoch: Epoch,
    chosen: Int32[Array, " batch"],
    config: TrainConfig,
    num_classes: int,
    dtype: jnp.dtype,
    *,
    flip: Bool[Array, " batch"] | None,
    key_augment: PRNGKeyArray,
    key_mixup: PRNGKeyArray,
) -> Batch:
    """What a step sees of the examples that it has chosen.

    **Arguments:**

    - `epoch`: the training set.
    - `chosen`: places in it.
    - `config`: the augmentation, the normalisation, what happens to labels.
    - `num_classes`: of the training set.
    - `dtype`: of the result.
    - `flip`: which to mirror, in place of a draw by `key_augment`.
    - `key_augment`, `key_mixup`: for what is random.

    **Returns:**

    Normalised inputs, and targets that are distributions over the classes.
    """
    images, labels = epoch.images[chosen], epoch.labels[chosen]
    targets = jax.nn.one_hot(labels, num_classes, dtype=dtype)
    targets = optax.smooth_labels(targets, config.label_smoothing)
    if config.augment:
        images = data.augment(key_augment, images, flip, pad=config.crop_pad)
    inputs = data.normalise(images, config.mean, config.std, dtype)
    if config.cutout:
        # Folding in 0 or 1 may give the keys into which `augment` splits this one.
        key_cutout = jax.random.fold_in(key_augment, 2)
        inputs = data.cutout(key_cutout, inputs, config.cutout)
    if config.mixup:
        inputs, targets = data.mixup(
            key_mixup, inputs, targets, config.mixup, config.mixup_group
        )
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
