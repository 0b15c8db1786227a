"""Sets of masks that hide a patch wherever it lies, and putting them on images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.patches import patch_sides


def covering_places(length: int, patch: int, count: int) -> tuple[int, list[int]]:
    """Return the side of a mask, and where masks begin, so that every window of ``patch`` pixels lies inside one.

    With stride ``s = ceil((n - p + 1) / k)`` a mask of ``p + s - 1`` pixels that begins at ``o`` holds the windows that
    begin at ``o, ..., o + s - 1`` (Xiang et al., PatchCleanser, USENIX Security 2022, section 3.2).

    Args:
        length: Of the image along one axis, n, in pixels.
        patch: Side of the patch along it, p.
        count: At most so many masks, k.

    Raises:
        AttackError: A number is below 1, or the patch is longer than the image.
    """
    if min(length, patch, count) < 1 or patch > length:
        raise AttackError(
            f"{count} masks are to hide a patch of {patch} pixels in {length}.",
            expected="at least one mask, and a patch of 1 pixel up to the whole length",
        )
    stride = math.ceil((length - patch + 1) / count)
    side = min(patch + stride - 1, length)
    return side, [*range(0, length - side, stride), length - side]


def proven_side(image: tuple[int, int], area: float) -> int:
    """Return the side p of a square that holds every patch of ``area`` that this package's attacks put on an image.

    ``ceil(sqrt(area H W))``, or more where ``patch_sides`` makes a longer rectangle: 6 for 3 % of 32 x 32 pixels.

    Args:
        image: Height and width, in pixels.
        area: Share of the image, above 0 and at most 1.

    Raises:
        AttackError: The area is less than a pixel.
    """
    return max(math.ceil(math.sqrt(area * image[0] * image[1]) - 1e-9), *patch_sides(*image, area))


@dataclass(frozen=True)
class MaskSet:
    """Rectangles of one size on an image; every patch of up to ``patch`` lies inside at least one of them.

    Args:
        image: Height and width, in pixels.
        patch: Most rows and columns of a patch.
        sides: Rows and columns of a mask.
        places: Top left corners of the masks.
    """

    image: tuple[int, int]
    patch: tuple[int, int]
    sides: tuple[int, int]
    places: tuple[tuple[int, int], ...]

    @classmethod
    def covering(cls, image: tuple[int, int], patch: tuple[int, int], count: int) -> MaskSet:
        """Return up to ``count`` x ``count`` masks for patches of up to ``patch`` rows and columns.

        Raises:
            AttackError: The patch is larger than the image.
        """
        rows, tops = covering_places(image[0], patch[0], count)
        columns, lefts = covering_places(image[1], patch[1], count)
        return cls(image, patch, (rows, columns), tuple((top, left) for top in tops for left in lefts))

    @classmethod
    def for_area(cls, image: tuple[int, int], area: float, count: int) -> MaskSet:
        """Return up to ``count`` x ``count`` masks for squares of at least ``area``, of ``proven_side`` pixels.

        A side that exceeds the image along an axis is cut there.

        Raises:
            AttackError: The area is less than a pixel.
        """
        side = proven_side(image, area)
        return cls.covering(image, (min(side, image[0]), min(side, image[1])), count)

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def table(self) -> Tensor:
        """True where a mask hides a pixel, bool (M, 1, H, W)."""
        hidden = torch.zeros(len(self.places), 1, *self.image, dtype=torch.bool)
        for index, (top, left) in enumerate(self.places):
            hidden[index, :, top : top + self.sides[0], left : left + self.sides[1]] = True
        return hidden

    @cached_property
    def pairs(self) -> Tensor:
        """All M (M + 1) / 2 pairs of masks, int64 (P, 2): first each mask with itself, then those of two masks."""
        both = torch.combinations(torch.arange(len(self)), 2)
        return torch.cat([torch.arange(len(self))[:, None].expand(-1, 2), both])

    def hide(self, images: Tensor, pairs: Tensor, fill: Tensor) -> Tensor:
        """Return images (N, C, H, W) whose pixels under either mask of their pair are ``fill``.

        What was under a mask is gone, NaN included: nothing is computed from it.

        Args:
            images: (N, C, H, W).
            pairs: Two masks an image, int64 (N, 2).
            fill: A constant that no image has a say in: of shape (C, 1, 1), one a channel.
        """
        table = self.table.to(images.device)
        pairs = pairs.to(images.device)
        return torch.where(table[pairs[:, 0]] | table[pairs[:, 1]], fill.to(images), images)
