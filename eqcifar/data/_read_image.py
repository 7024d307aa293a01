import io
import os
import warnings
from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UsageError

# What becomes RGB in one way. CMYK and Lab would need a profile, I and F a range.
_MODES = ("1", "L", "P", "RGB", "RGBX", "YCbCr")


def read_image(
    path: str | os.PathLike[str],
    size: int = 32,
    *,
    assumed: Counter[str] | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """Read an image file of any size as a network takes it.

    It becomes upright RGB as the images of a dataset do, is cut to its central square
    and scaled by Pillow's bicubic filter, which averages when it makes an image
    smaller. An image of `size` x `size` pixels is what `load` makes of it.

    **Arguments:**

    - `path`: in any format that Pillow reads, but PostScript, which is a program.
    - `size`: height and width of the result.
    - `assumed`: counts what the file left open, such as "opaque alpha dropped".

    **Returns:**

    Pixels in 0 to 255.

    **Raises:**

    `UsageError` with the path for a file that cannot be read as an image, or whose
    colours are not known: it is transparent, or neither grey nor RGB.
    """
    image = upright_rgb(path, f"cannot read {path}", assumed=assumed)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.array(square.resize((size, size), Image.Resampling.BICUBIC))


def upright_rgb(
    file: str | os.PathLike[str] | io.BytesIO,
    problem: str,
    *,
    size: int | None = None,
    assumed: Counter[str] | None = None,
) -> Image.Image:
    """The one way from a file to pixels.

    The image is turned as its EXIF orientation says; greys and palettes become RGB,
    16-bit greys are scaled so that white is white, alpha is dropped where all of it is
    opaque, and of several frames the first is taken.

    **Arguments:**

    - `file`: to read.
    - `problem`: what messages begin with.
    - `size`: the height and width it must have; looked at before pixels are decoded.
    - `assumed`: counts what the file left open.

    **Raises:**

    `UsageError` that begins with `problem`.
    """
    assumed = Counter() if assumed is None else assumed
    try:
        with warnings.catch_warnings():
            # A large photograph is none of the bombs that it warns of.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.format == "EPS":
                    # Pillow would start Ghostscript.
                    raise ValueError("PostScript is a program: save it as PNG first")
                if size is not None and image.size != (size, size):
                    raise ValueError(
                        f"it is {image.height}x{image.width} pixels, not "
                        f"{size}x{size}: resize the images first"
                    )
                if getattr(image, "is_animated", False):
                    assumed["first of several frames taken"] += 1
                return _rgb(ImageOps.exif_transpose(image), assumed)
    except UnidentifiedImageError as error:
        raise UsageError(f"{problem}: it is not an image") from error
    except OSError as error:
        raise UsageError(f"{problem}: {error.strerror or error}") from error
    except Exception as error:
        # What Pillow raises of a damaged file depends on where the damage is.
        reason = str(error) or type(error).__name__
        raise UsageError(f"{problem}: {reason}") from error


def _rgb(image: Image.Image, assumed: Counter[str]) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would cut 16-bit greys at 255.
        greys = np.asarray(image)
        _refuse_transparent(bool((greys == image.info.get("transparency")).any()))
        greys = np.rint(greys.astype(np.float32) / 257).astype(np.uint8)
        return Image.fromarray(greys).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        lowest: Any = image.getchannel("A").getextrema()[0]
        _refuse_transparent(lowest < 255)
        assumed["opaque alpha dropped"] += 1
    elif image.mode not in _MODES:
        raise ValueError(
            f"nothing says which RGB its pixels of mode {image.mode} are: convert it "
            "to RGB first"
        )
    return image if image.mode == "RGB" else image.convert("RGB")


def _refuse_transparent(transparent: bool):
    if transparent:
        raise ValueError(
            "it has transparent pixels, and nothing says what is behind them: put it "
            "on a background and save it as RGB first"
        )
