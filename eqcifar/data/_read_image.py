import os
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UsageError


def read_image(
    path: str | os.PathLike[str], size: int = 32
) -> UInt8[np.ndarray, "size size 3"]:
    """Read an image file of any size as a network takes it.

    It is turned upright, put on white where it is transparent, made RGB, cut to its
    central square and scaled by Pillow's bicubic filter, which averages when it makes
    an image smaller. An RGB image of `size` x `size` pixels is not changed.

    **Arguments:**

    - `path`: in any format that Pillow reads; of several frames, the first.
    - `size`: height and width of the result.

    **Returns:**

    Pixels in 0 to 255.

    **Raises:**

    `UsageError` with the path for a file that cannot be read as an image.
    """
    try:
        with warnings.catch_warnings():
            # A large photograph is none of the bombs that it warns of.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image = _rgb(ImageOps.exif_transpose(image))
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        return np.array(square.resize((size, size), Image.Resampling.BICUBIC))
    except UnidentifiedImageError as error:
        raise UsageError(f"cannot read {path}: it is not an image") from error
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot read {path}: {reason}") from error
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would cut 16-bit greys at 255.
        greys = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(greys.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels have no range known (mode {image.mode}): convert it to RGB"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
