"""Where patches lie: sides and masks."""

from __future__ import annotations

import math

from genaf_sdk.errors import AttackError


def patch_sides(height: int, width: int, area: float) -> tuple[int, int]:
    """Return rows and columns of a patch of at most ``area`` of an image.

    The sides are equal, or differ by as little as uses the area best.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        area: Share of the image, above 0 and at most 1.

    Raises:
        AttackError: The area is less than a pixel.
    """
    pixels = math.floor(area * height * width + 1e-9)
    if pixels < 1:
        raise AttackError(
            f"A patch over {area:.3%} of {height} x {width} pixels is smaller than a pixel.",
            expected=f"a budget of at least {1 / (height * width):.3g}",
        )
    rows = min(math.isqrt(pixels), height)
    columns = min(pixels // rows, width)
    return min(pixels // columns, height), columns
