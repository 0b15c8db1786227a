"""Where patches lie: sides, places, masks, and pasting."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

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


def grid_places(image: tuple[int, int], sides: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Return top left corners of up to ``count`` x ``count`` patches spread evenly over an image, edges included.

    Args:
        image: Height and width, in pixels.
        sides: Rows and columns of the patch.
        count: Places along each axis; one is the middle.
    """
    axes = []
    for length, side in zip(image, sides, strict=True):
        room = length - side
        shares = [0.5] if count == 1 else [index / (count - 1) for index in range(count)]
        axes.append(sorted({round(share * room) for share in shares}))
    return [(top, left) for top in axes[0] for left in axes[1]]


def mask_at(image: tuple[int, int], sides: tuple[int, int], place: tuple[int, int]) -> Tensor:
    """Return a mask (1, H, W), 1 on the patch whose top left corner is ``place``."""
    mask = torch.zeros(1, *image)
    mask[:, place[0] : place[0] + sides[0], place[1] : place[1] + sides[1]] = 1
    return mask


def window_gains(images: Tensor, gradient: Tensor, sides: tuple[int, int]) -> Tensor:
    """Return what a patch promises at every place: by how much it would raise a loss that were linear in the pixels.

    Each pixel of the window goes to 0 or 1, whichever raises the loss.

    Args:
        images: (N, C, H, W) in [0, 1].
        gradient: Of the loss, of the same shape.
        sides: Rows h and columns w of the patch.

    Returns:
        (N, H - h + 1, W - w + 1) by the top left corner, as a mean over the window.
    """
    gains = gradient.clamp(min=0) * (1 - images) - gradient.clamp(max=0) * images
    return F.avg_pool2d(gains.sum(dim=1, keepdim=True), sides, 1)[:, 0]


def places_of(indices: Tensor, columns: int) -> Tensor:
    """Return top left corners (N, 2) of flat indices (N,) into rows of so many columns."""
    return torch.stack([indices // columns, indices % columns], dim=1)


def plain_patches(count: int, channels: int, side: int) -> Tensor:
    """Return up to ``count`` patches (n, C, side, side) of one color each: black, white, then other extreme colors.

    Each is followed by its complement; of C channels there are 2^C.
    """
    most = min(count, 2**channels)
    corners = [index // 2 if index % 2 == 0 else 2**channels - 1 - index // 2 for index in range(most)]
    colors = [[float(corner >> channel & 1) for channel in range(channels)] for corner in corners]
    return torch.tensor(colors)[:, :, None, None].expand(-1, -1, side, side)


def paste(inputs: Tensor, patches: Tensor, places: Tensor) -> Tensor:
    """Put a patch on each image, at a place of its own; differentiable in the patches.

    Args:
        inputs: Images (N, C, H, W).
        patches: (N, C, h, w).
        places: Top left corners (N, 2), whole numbers.

    Returns:
        Images (N, C, H, W).
    """
    height, width = patches.shape[-2:]
    top, left = places.to(inputs.device).unbind(1)
    rows = top[:, None, None] + torch.arange(height, device=inputs.device)[None, :, None]
    columns = left[:, None, None] + torch.arange(width, device=inputs.device)[None, None, :]
    images = torch.arange(len(inputs), device=inputs.device)[:, None, None]
    patched = inputs.clone()
    patched[images, :, rows, columns] = patches.permute(0, 2, 3, 1)
    return patched
