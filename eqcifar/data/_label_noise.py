import dataclasses

import numpy as np

from ..errors import UsageError
from ._dataset import Dataset, Split


def with_label_noise(
    dataset: Dataset, share: float, over: str = "others", *, seed: int = 0
) -> Dataset:
    """Draw labels of training images in place of their own.

    Each on its own with the same probability, as by Zhang et al., 2017
    (https://arxiv.org/abs/1611.03530), who draw from all classes. With one seed, images
    whose labels are drawn at a smaller share have the same labels at a larger one.

    **Arguments:**

    - `dataset`: its other splits stay as they are.
    - `share`: the probability p. 0: none.
    - `over`: "others", so that p is the expected share of wrong labels, or "all" C
        classes, so that p (1 - 1 / C) is.
    - `seed`: of the labels. Not the seed of a run: runs share their data.

    **Returns:**

    A dataset whose `train` has the true labels beside the given ones.

    **Raises:**

    `eqcifar.errors.UsageError` for a share or a choice that there is not.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"label_noise is {share}: give a probability, from 0 to 1")
    if over not in ("others", "all"):
        raise UsageError(f"label_noise_over is {over!r}: choose others or all")
    if share == 0:
        return dataset
    split, classes = dataset.train, len(dataset.classes)
    # Not the numbers that choose a validation split.
    rng = np.random.default_rng([seed, 1])
    is_drawn = rng.random(len(split)) < share
    first = 1 if over == "others" else 0
    shift = rng.integers(first, classes, len(split))
    drawn = (split.truth + shift) % classes
    labels = np.where(is_drawn, drawn, split.labels).astype(np.int32)
    return dataclasses.replace(dataset, train=Split(split.images, labels, split.truth))
