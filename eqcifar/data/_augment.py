from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from ..errors import UsageError


def augment(
    key: PRNGKeyArray,
    images: UInt8[Array, "batch h w 3"],
    flip: Bool[Array, " batch"] | None = None,
    *,
    pad: int = 4,
) -> UInt8[Array, "batch h w 3"]:
    """Shift and mirror each image at random, as is usual for CIFAR.

    Equals padding by `pad` pixels in reflection, cropping at one of the `2 pad + 1`
    squared positions, and flipping left to right with probability 1/2; all are drawn
    evenly, one by one.

    **Arguments:**

    - `key`: for the positions and the flips.
    - `images`: larger than `pad` both ways.
    - `flip`: which to flip, in place of a draw.
    - `pad`: pixels beyond each edge.

    **Returns:**

    Images of the same shape, whose pixels are all pixels of the same input image.

    **Raises:**

    `UsageError` when the images are too small.
    """
    batch, height, width, _ = images.shape
    check_crops(pad, (height, width))
    key_shift, key_flip = jax.random.split(key)
    shift = jax.random.randint(key_shift, (batch, 2), -pad, pad + 1)
    if flip is None:
        flip = jax.random.bernoulli(key_flip, shape=(batch,))

    return shift_and_flip(images, shift, flip)


def check_crops(pad: int, size: tuple[int, ...]):
    """Refuse padding by reflection that images do not have the pixels for.

    **Raises:**

    `UsageError` with what would do.
    """
    if pad >= min(size):
        height, width = size
        raise UsageError(
            f"cannot reflect {pad} pixels of images of {height}x{width}: "
            f"give a --crop-pad below {min(size)}"
        )


def shift_and_flip(
    images: UInt8[Array, "batch h w 3"],
    shift: Int[Array, "batch 2"],
    flip: Bool[Array, " batch"],
) -> UInt8[Array, "batch h w 3"]:
    """Crop images that are padded by reflection, and mirror the crops.

    **Arguments:**

    - `images`: larger than any shift both ways.
    - `shift`: rows and columns from the image's own place to the crop's.
    - `flip`: which to mirror left to right.

    **Returns:**

    Images of the same shape.
    """
    _, height, width, _ = images.shape

    def one(image, shift, flip):
        rows = _reflect(jnp.arange(height) + shift[0], height)
        columns = jnp.where(flip, jnp.arange(width)[::-1], jnp.arange(width))
        columns = _reflect(columns + shift[1], width)
        # Two gathers of uint8 rows: ten times faster on a CPU than padding and slicing.
        return image[rows][:, columns]

    return jax.vmap(one)(images, shift, flip)


def normalise(
    images: UInt8[Array, "*batch h w 3"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*batch 3 h w"]:
    """Turn stored pixels into what a network sees: `(x / 255 - mean) / std`.

    **Arguments:**

    - `images`: pixels from 0 to 255, colours last.
    - `mean`, `std`: one number a colour, on the scale from 0 to 1.
    - `dtype`: of the result; computed in float32 at least.

    **Returns:**

    The images with colours first.
    """
    compute = dtype if jnp.finfo(dtype).bits > 32 else jnp.float32
    # Axes are written out for those who forbid JAX to add them.
    axes = (1,) * (images.ndim - 1) + (-1,)
    centre, scale = (jnp.asarray(x, compute).reshape(axes) for x in (mean, std))
    scaled = (images.astype(compute) / 255 - centre) / scale
    return jnp.moveaxis(scaled, -1, -3).astype(dtype)


def cutout(
    key: PRNGKeyArray, inputs: Float[Array, "batch channels h w"], size: int
) -> Float[Array, "batch channels h w"]:
    """Set a square of each image to 0, so to the `mean` that `normalise` was given.

    Its middle is at any place of the image with the same probability, so that part of
    it may lie outside: section 3.2 of "Improved Regularization of Convolutional Neural
    Networks with Cutout", DeVries & Taylor, 2017 (https://arxiv.org/abs/1708.04552).

    **Arguments:**

    - `key`: for the places.
    - `inputs`: normalised images.
    - `size`: of a side, in pixels.

    **Returns:**

    The images with their squares. Of an even `size`, the middle is the pixel below and
    to the right of the square's centre.
    """
    batch, _, height, width = inputs.shape
    key_row, key_column = jax.random.split(key)

    def cut(key, length):
        first = jax.random.randint(key, (batch,), 0, length) - size // 2
        return _span(first, jnp.full_like(first, size), length)

    square = _rectangle(cut(key_row, height), cut(key_column, width))
    return jnp.where(square, 0, inputs)


def mixup(
    key: PRNGKeyArray,
    inputs: Float[Array, " batch *image"],
    targets: Float[Array, "batch classes"],
    beta: float,
    group: int = 0,
) -> tuple[Float[Array, " batch *image"], Float[Array, "batch classes"]]:
    """Mix each example with its mirror image in the batch (the last with the first).

    The weight of an example is `max(w, 1 - w)`, with `w` drawn from Beta(beta, beta)
    for each example on its own; its partner has the rest. In groups, each group is
    mixed like a batch of that size, with the same weights: data-parallel training
    does so where devices have one key.

    See "mixup: Beyond Empirical Risk Minimization", Zhang et al., ICLR 2018
    (https://arxiv.org/abs/1710.09412), which draws one weight for the whole batch.

    **Arguments:**

    - `key`: for the weights.
    - `inputs`: normalised images.
    - `targets`: one-hot, or any other distribution over the classes.
    - `beta`: above 0; small values leave most examples nearly unmixed.
    - `group`: examples in a group, a divisor of the batch; 0: all of them.

    **Returns:**

    Inputs and targets, mixed with the same weights.
    """
    batch = inputs.shape[0]
    group = group or batch
    weight = jax.random.beta(key, beta, beta, (group,), jnp.float32)
    weight = jnp.maximum(weight, 1 - weight)

    def mix(values):
        compute = _at_least_float32(values.dtype)
        w = weight.astype(compute).reshape((group,) + (1,) * (values.ndim - 1))
        wide = values.astype(compute).reshape(-1, group, *values.shape[1:])
        mixed = w * wide + (1 - w) * wide[:, ::-1]
        return mixed.astype(values.dtype).reshape(values.shape)

    return mix(inputs), mix(targets)


def cutmix(
    key: PRNGKeyArray,
    inputs: Float[Array, "batch channels h w"],
    targets: Float[Array, "batch classes"],
    beta: float,
    probability: float = 0.5,
) -> tuple[Float[Array, "batch channels h w"], Float[Array, "batch classes"]]:
    """Put a box of its mirror image in the batch (the last for the first) into each.

    The box has sides of `sqrt(1 - w)` of the image's, rounded down to pixels, with `w`
    drawn from Beta(beta, beta), and its middle is at any pixel with the same
    probability, so that part of it may lie outside. The weight of the other label is
    the share of pixels that were put. Each image has draws of its own, where the paper
    has one for the whole batch: "CutMix: Regularization Strategy to Train Strong
    Classifiers with Localizable Features", Yun et al., 2019
    (https://arxiv.org/abs/1905.04899); with beta 1 and a probability of 1/2 for CIFAR.

    **Arguments:**

    - `key`: for boxes, and for which images have one.
    - `inputs`: normalised images.
    - `targets`: one-hot, or any other distribution over the classes.
    - `beta`: above 0; small values put nearly all of the other image, or nearly none.
    - `probability`: that an image is changed.

    **Returns:**

    Inputs with their boxes, and targets mixed by the shares of pixels.
    """
    batch, _, height, width = inputs.shape
    key_weight, key_chosen, key_row, key_column = jax.random.split(key, 4)
    weight = jax.random.beta(key_weight, beta, beta, (batch,), jnp.float32)
    chosen = jax.random.bernoulli(key_chosen, probability, (batch,))
    side = jnp.where(chosen, jnp.sqrt(1 - weight), 0)

    def cut(key, length):
        size = jnp.floor(side * length).astype(int)
        middle = jax.random.randint(key, (batch,), 0, length)
        return _span(middle - size // 2, size, length)

    box = _rectangle(cut(key_row, height), cut(key_column, width))
    share = jnp.mean(box, (1, 2, 3), targets.dtype)[:, None]
    mixed = targets + share * (targets[::-1] - targets)
    return jnp.where(box, inputs[::-1], inputs), mixed


# Of Random Erasing: the shares of the image, the sides' ratios, and draws to be tried.
_AREAS, _RATIOS, _DRAWS = (0.02, 0.4), (0.3, 1 / 0.3), 20


def erase(
    key: PRNGKeyArray,
    inputs: Float[Array, "batch channels h w"],
    probability: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[Array, "batch channels h w"]:
    """Fill a rectangle with random pixels, in some images.

    Its area is evenly drawn from 2 to 40 % of the image's and its height over its width
    from 0.3 to 1 / 0.3, again until it fits, and its place from those within the image;
    each pixel takes whole numbers from 0 to 255. So does the program of the authors of
    "Random Erasing Data Augmentation", Zhong et al., 2017
    (https://arxiv.org/abs/1708.04896), whose algorithm 1 draws sizes anew, too, where a
    place does not fit; RE-R with a probability of 1/2 for CIFAR.

    **Arguments:**

    - `key`: for rectangles and pixels.
    - `inputs`: normalised images.
    - `probability`: that an image has a rectangle.
    - `mean`, `std`: as for `normalise`.

    **Returns:**

    The images with their rectangles.
    """
    batch, channels, height, width = inputs.shape
    key_chosen, key_area, key_ratio, *key_place, key_pixels = jax.random.split(key, 6)
    chosen = jax.random.bernoulli(key_chosen, probability, (batch,))
    many = batch, _DRAWS
    area = jax.random.uniform(key_area, many, jnp.float32, *_AREAS) * height * width
    ratio = jax.random.uniform(key_ratio, many, jnp.float32, *_RATIOS)
    sides = jnp.stack([jnp.sqrt(area * ratio), jnp.sqrt(area / ratio)])
    sides = jnp.floor(sides).astype(int)
    fits = (sides[0] < height) & (sides[1] < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    # Where none fits, there is no rectangle.
    there = chosen & fits.any(axis=1)
    spans = []
    for side, key, length in zip(sides, key_place, (height, width), strict=True):
        size = jnp.take_along_axis(side, first, axis=1)[:, 0]
        size = jnp.where(there, size, 0)
        place = jax.random.randint(key, (batch,), 0, length - size + 1)
        spans.append(_span(place, size, length))
    shape = batch, height, width, channels
    pixels = jax.random.bits(key_pixels, shape, jnp.uint8)
    return jnp.where(
        _rectangle(*spans), normalise(pixels, mean, std, inputs.dtype), inputs
    )


def _span(
    first: Int[Array, " batch"], size: Int[Array, " batch"], length: int
) -> Bool[Array, "batch length"]:
    """Which of `length` places lie in a span, of each image its own."""
    place = jnp.arange(length)[None]
    return (first[:, None] <= place) & (place < (first + size)[:, None])


def _rectangle(
    rows: Bool[Array, "batch h"], columns: Bool[Array, "batch w"]
) -> Bool[Array, "batch 1 h w"]:
    return rows[:, None, :, None] & columns[:, None, None, :]


def _at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    return jnp.dtype(dtype if jnp.finfo(dtype).bits > 32 else jnp.float32)


def _reflect(index: Int[Array, " size"], size: int) -> Int[Array, " size"]:
    """Fold positions outside of `0..size - 1` back in, not repeating the edge."""
    return (size - 1) - jnp.abs((size - 1) - jnp.abs(index))
