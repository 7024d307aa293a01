import dataclasses
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ..data import read_image
from ..errors import UsageError
from ..runs import LoadedModel
from ..training import predict, probabilities

_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"),
    *(".avif", ".jp2", ".jpe", ".jfif", ".apng", ".pgm", ".pbm", ".pnm", ".tga"),
)


@dataclasses.dataclass(frozen=True)
class Guess:
    """A class that a network sees in an image.

    - `name`: of the class.
    - `probability`: as `eqcifar.training.probabilities` takes it from the outputs.
    - `output`: the network's output of the class itself.
    """

    name: str
    probability: float
    output: float


def classify(
    loaded: LoadedModel, images: UInt8[np.ndarray, "n height width 3"], top: int = 5
) -> list[tuple[Guess, ...]]:
    """The most likely classes of each image.

    **Arguments:**

    - `loaded`: the network, as `load_model` returns it.
    - `images`: pixels in 0 to 255, as `eqcifar.data.read_image` reads them.
    - `top`: how many classes; no more than there are.

    **Returns:**

    Of each image the classes with the largest outputs, the largest first.
    """
    config, classes = loaded.config, loaded.classes
    outputs = predict(loaded.model, loaded.state, images, config)
    shares = probabilities(outputs, config.loss)
    # By output, for probabilities cut to [0, 1] can be equal.
    order = np.argsort(-outputs, axis=1, kind="stable")[:, :top]
    return [
        tuple(Guess(classes[c], float(share[c]), float(output[c])) for c in best)
        for best, share, output in zip(order, shares, outputs, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class ReadImages:
    """What could be read of image files, in their order.

    - `paths`, `pixels`: of the images that could be read.
    - `errors`: why others could not, by their paths.
    - `assumed`: what reading took for granted, and of how many images.
    """

    paths: tuple[Path, ...]
    pixels: UInt8[np.ndarray, "n height width 3"]
    errors: dict[Path, UsageError]
    assumed: Counter[str]


def read_images(paths: Iterable[str | os.PathLike[str]]) -> ReadImages:
    """Read images as `eqcifar.data.read_image` does, from files and folders of them.

    **Raises:**

    `UsageError` as `find_images`, and where no image can be read.
    """
    images, errors, assumed = {}, {}, Counter()
    for path in find_images(paths):
        try:
            images[path] = read_image(path, assumed=assumed)
        except UsageError as error:
            errors[path] = error
    if not images:
        raise next(iter(errors.values()))
    return ReadImages(tuple(images), np.stack(list(images.values())), errors, assumed)


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files as they are, and in place of a folder all images in it and below, by path.

    In a folder, a name tells what an image is; hidden files and folders are left out.

    **Arguments:**

    - `paths`: of image files and folders.

    **Returns:**

    Paths of files, without repetition.

    **Raises:**

    `UsageError` for a path that is not there, and for a folder without images.
    """
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"no file or folder {path}")
        if not path.is_dir():
            found.append(path)
            continue
        below = sorted(each for each in path.rglob("*") if _is_image(each, path))
        if not below:
            raise UsageError(f"no images in {path} or below: none is called *.png etc.")
        found += below
    return found


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in _SUFFIXES and path.is_file() and not hidden
