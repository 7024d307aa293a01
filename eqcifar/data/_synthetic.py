import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ..errors import UsageError
from ._dataset import Dataset, Split

SHAPES = (
    "disc",
    "square",
    "triangle",
    "diamond",
    "plus",
    "ring",
    "bars",
    "cross",
    "frame",
    "hourglass",
)
_PERIODS = {"fine": 3.5, "coarse": 7.0}  # of the stripes, in pixels
_ANGLES = (0, 36, 72, 108, 144)  # of the stripes, in degrees
TEXTURED = tuple(
    f"{shape} {period} {angle}"
    for shape in SHAPES
    for period in _PERIODS
    for angle in _ANGLES
)
# Twenty groups of five, as CIFAR-100 has.
COARSE = tuple(f"{shape} {period}" for shape in SHAPES for period in _PERIODS)

_SIZE = 32
# Images are drawn in blocks, each from its own seed: the first images of a split are
# the same however many are asked for.
_BLOCK = 200


def synthetic(
    classes: int = 10, *, train: int = 0, test: int = 0, seed: int = 0
) -> Dataset:
    """Draw procedural images in CIFAR's form, for machines without its data.

    Each of 32 x 32 pixels shows one of ten shapes at a random place, size, tilt and
    colour, on a smooth background with clutter and noise. With 100 classes the shape
    is striped, and the class is shape and stripes. Labels survive mirroring and shifts
    of a few pixels; no class can be told by a linear function of the pixels.

    Numbers measured on these images say nothing about CIFAR: print
    `Dataset.title` beside them, which says SYNTHETIC.

    **Arguments:**

    - `classes`: 10 or 100.
    - `train`, `test`: the number of images. 0: 5,000 and 1,000 for 10 classes, twice as
        many for 100.
    - `seed`: another seed, other images.

    **Returns:**

    A dataset whose classes are as evenly filled as its sizes allow.
    """
    if classes not in (10, 100):
        raise UsageError(f"synthetic images have 10 or 100 classes, not {classes}")
    default = 1 if classes == 10 else 2
    return Dataset(
        name="synthetic" if classes == 10 else "synthetic100",
        classes=SHAPES if classes == 10 else TEXTURED,
        train=_split(seed, 0, classes, train or 5000 * default),
        test=_split(seed, 1, classes, test or 1000 * default),
        synthetic=True,
    )


def _split(seed: int, split: int, classes: int, size: int) -> Split:
    blocks = []
    for block in range(-(-size // _BLOCK)):
        rng = np.random.default_rng([seed, split, classes, block])
        labels = rng.permutation(_BLOCK) % classes
        blocks.append((_draw(rng, labels, classes), labels))
    images = np.concatenate([images for images, _ in blocks])[:size]
    labels = np.concatenate([labels for _, labels in blocks])[:size]
    return Split(images, labels.astype(np.int32))


def _draw(
    rng: np.random.Generator, labels: Int[np.ndarray, " n"], classes: int
) -> UInt8[np.ndarray, "n h w 3"]:
    # In float64: what the last bit of a sine is differs between machines, and must not
    # show in the rounded pixels.
    n = len(labels)
    shapes, stripes = (labels, None) if classes == 10 else np.divmod(labels, 10)
    y, x = np.mgrid[:_SIZE, :_SIZE] - (_SIZE - 1) / 2

    def column(low: float, high: float) -> Float[np.ndarray, "n 1 1"]:
        return rng.uniform(low, high, (n, 1, 1))

    # The shape's own coordinates, in units of its radius.
    radius, tilt = column(7.5, 13.0), column(-0.25, 0.25)
    dx, dy = x - column(-4.0, 4.0), y - column(-4.0, 4.0)
    u = (np.cos(tilt) * dx + np.sin(tilt) * dy) / radius
    v = (np.cos(tilt) * dy - np.sin(tilt) * dx) / radius
    inside = np.empty((n, _SIZE, _SIZE))
    for shape, name in enumerate(SHAPES):
        mine = shapes == shape
        inside[mine] = _inside(name, u[mine], v[mine])
    mask = np.clip(inside * radius + 0.5, 0, 1)[..., None]

    background, ink = _colours(rng, shapes)
    canvas = background + 0.12 * _smooth(rng, n)
    for _ in range(2):
        blob = np.exp(
            -((x - column(-15.0, 15.0)) ** 2 + (y - column(-15.0, 15.0)) ** 2) / 12
        )
        blob = (blob * (column(0.0, 1.0) < 0.6))[..., None]
        canvas += blob * (rng.uniform(0, 1, (n, 1, 1, 3)) - canvas)
    if stripes is not None:
        ink = ink + _stripes(stripes, u * radius, v * radius) * (background - ink)
    canvas += mask * (ink - canvas)
    canvas += column(0.03, 0.08)[..., None] * rng.standard_normal(canvas.shape)
    return np.round(255 * np.clip(canvas, 0, 1)).astype(np.uint8)


def _inside(
    name: str, u: Float[np.ndarray, "n h w"], v: Float[np.ndarray, "n h w"]
) -> Float[np.ndarray, "n h w"]:
    """Distance to the shape's edge, about: above 0 within. All are left-right even."""
    u, y = np.abs(u), np.abs(v)
    match name:
        case "disc":
            return 0.85 - np.hypot(u, y)
        case "square":
            return 0.75 - np.maximum(u, y)
        case "triangle":
            return np.minimum(0.75 - v, 0.87 * (0.55 * (v + 1) - u))
        case "diamond":
            return 0.71 * (1 - u - y)
        case "plus":
            return np.minimum(0.28 - np.minimum(u, y), 0.95 - np.maximum(u, y))
        case "ring":
            return 0.18 - np.abs(np.hypot(u, y) - 0.75)
        case "bars":
            return np.minimum(0.2 - np.abs(y - 0.5), 0.85 - u)
        case "cross":
            u, y = 0.71 * (u + y), 0.71 * np.abs(u - y)
            return np.minimum(0.25 - np.minimum(u, y), 1.05 - np.maximum(u, y))
        case "frame":
            return 0.16 - np.abs(np.maximum(u, y) - 0.7)
        case _:  # hourglass
            return np.minimum(0.85 - y, 0.75 * (0.95 * y + 0.06 - u))


def _colours(
    rng: np.random.Generator, shapes: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n 1 1 3"], Float[np.ndarray, "n 1 1 3"]]:
    """Choose a background and an ink well apart; three inks in ten tell the class."""
    n = len(shapes)
    background, ink = rng.uniform(0.1, 0.9, (2, n, 3))
    hue = 2 * np.pi * (shapes[:, None] / len(SHAPES) + np.array([0, 1 / 3, 2 / 3]))
    telling: Bool[np.ndarray, "n 1"] = rng.uniform(size=(n, 1)) < 0.3
    ink = np.where(telling, 0.5 + 0.35 * np.cos(hue), ink)
    # Move the background's brightness away from the ink's, to the side with more room.
    luminance = np.array([0.3, 0.59, 0.11])
    bright = (ink @ luminance)[:, None]
    wanted = bright + np.where(bright < 0.5, 1, -1) * rng.uniform(0.2, 0.4, (n, 1))
    background = background + wanted - (background @ luminance)[:, None]
    return np.clip(background, 0, 1)[:, None, None], ink[:, None, None]


def _smooth(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n h w 3"]:
    """Random fields that vary over about ten pixels."""
    knots = np.linspace(0, _SIZE - 1, 4)
    pixels = np.arange(_SIZE)
    weights = np.clip(1 - np.abs(pixels[:, None] - knots) / knots[1], 0, 1)
    grid = rng.standard_normal((n, 4, 4, 3))
    return np.einsum("hi,wj,nijc->nhwc", weights, weights, grid, optimize=True)


def _stripes(
    stripes: Int[np.ndarray, " n"],
    u: Float[np.ndarray, "n h w"],
    v: Float[np.ndarray, "n h w"],
) -> Float[np.ndarray, "n h w 1"]:
    """How much of the background shows through, 0 to 0.8. Even in u: flips keep it."""
    period = np.array(list(_PERIODS.values()))[stripes // len(_ANGLES), None, None]
    angle = np.deg2rad(_ANGLES)[stripes % len(_ANGLES), None, None]
    along = np.cos(angle) * np.abs(u) + np.sin(angle) * v
    return (0.4 + 0.4 * np.cos(2 * np.pi * along / period))[..., None]
