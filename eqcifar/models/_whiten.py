from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqcifar.errors import UsageError

_Model = TypeVar("_Model")

_AT_A_TIME = 250


def whiten(
    model: _Model,
    images: Float[Array, "n 3 height width"] | Float[np.ndarray, "n 3 height width"],
    *,
    eps: float = 5e-4,
) -> _Model:
    r"""Start the first convolution from filters that whiten the patches of images.

    The filters are $\pm v_k / \sqrt{\lambda_k + \epsilon}$, with the eigenvectors and
    eigenvalues of the covariance of all patches of the filters' size, the largest
    first: as many pairs as the convolution has room for. So its outputs, one of each
    pair, are uncorrelated and have variance 1 over the images. Channels that are left
    keep their weights.

    Page, 2019, "How to train your ResNet 8"; both signs and $\epsilon$ as in Jordan,
    2024, section 3.2, https://arxiv.org/abs/2404.00498. Where they fix these filters,
    here they go on to be trained.

    **Arguments:**

    - `model`: the convolution's weight is its first array of shape `(channels, 3, rows,
        columns)`, in the order of its fields.
    - `images`: normalised images of the training set.
    - `eps`: in units of normalised pixels squared.

    **Returns:**

    The model with that array replaced.

    **Raises:**

    `UsageError` when there is no such array.
    """
    leaves, structure = jax.tree.flatten(model)
    found = [i for i, leaf in enumerate(leaves) if takes_colours(leaf)]
    if not found:
        raise UsageError(
            "this network has no first convolution to whiten: none of its arrays is "
            "channels x 3 x rows x columns"
        )
    weight = leaves[found[0]]
    filters = _filters(np.asarray(images), weight.shape[2:], eps)
    pairs = min(len(filters), len(weight) // 2)
    both = np.concatenate([filters[:pairs], -filters[:pairs]])
    both = jnp.asarray(both.astype(weight.dtype))
    leaves[found[0]] = weight.at[: 2 * pairs].set(both)
    return jax.tree.unflatten(structure, leaves)


def takes_colours(leaf: Any) -> bool:
    """Whether it is the array of a convolution of three channels, as colours are."""
    return isinstance(leaf, jax.Array) and leaf.ndim == 4 and leaf.shape[1] == 3


def _filters(images: np.ndarray, size: tuple[int, ...], eps: float) -> np.ndarray:
    count, total, squares = 0, 0.0, 0.0
    # In float64 on the host: the same on any number of devices.
    for start in range(0, len(images), _AT_A_TIME):
        part = images[start : start + _AT_A_TIME].astype(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(part, size, axis=(2, 3))
        patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 3 * np.prod(size))
        count += len(patches)
        total = total + patches.sum(0)
        squares = squares + patches.T @ patches
    mean = total / count
    values, vectors = np.linalg.eigh(squares / count - np.outer(mean, mean))
    filters = (vectors / np.sqrt(np.maximum(values, 0) + eps)).T[::-1]
    # An eigenvector's sign is arbitrary: let the largest entry be positive.
    largest = np.abs(filters).argmax(1)
    filters = filters * np.sign(filters[np.arange(len(filters)), largest])[:, None]
    return filters.reshape(-1, 3, *size)
