"""From an image file's bytes to pixels: few formats, and a cap on pixels that holds before any is decoded."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import InputError, TooLargeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 25_000_000
# Training resizes tensors, which have no Lanczos filter; it takes the bicubic one for it.
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.BICUBIC,
}


def decode(
    data: bytes,
    image_shape: tuple[int, int, int],
    *,
    max_pixels: int = MAX_PIXELS,
    interpolation: str = "bilinear",
) -> NDArray[Any]:
    """Return an image as uint8 (1, H, W, C), resized as in training (antialiased, ratio not kept).

    Args:
        data: A JPEG, PNG or WEBP file. It is turned as its EXIF orientation says; transparency is dropped.
        image_shape: (C, H, W); C is 3 or 1.
        max_pixels: Largest width times height, read from the header before anything is decoded.
        interpolation: How the training images were resized; all but ``FILTERS`` is bilinear.

    Raises:
        TooLargeError: More pixels than that.
        InputError: Another format, or a damaged file.
    """
    channels, height, width = image_shape
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise TooLargeError(
                    f"The image has {image.width} x {image.height} pixels.",
                    expected=f"at most {max_pixels:,} pixels",
                    remedy=f"scale it down; the model sees {width} x {height}",
                )
            upright = ImageOps.exif_transpose(image)
            converted = upright.convert("RGB" if channels == 3 else "L")
            resized = converted.resize((width, height), FILTERS.get(interpolation, Image.Resampling.BILINEAR))
    except UnidentifiedImageError as error:  # its own text is an address in memory
        raise InputError(
            "The image cannot be decoded: it is of no known format.", expected=f"a {', '.join(FORMATS)} file"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"The image cannot be decoded: {error}.", expected=f"a whole {', '.join(FORMATS)} file"
        ) from error
    return np.asarray(resized).reshape(1, height, width, channels)
