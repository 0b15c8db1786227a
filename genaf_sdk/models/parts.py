"""Images sent through a model part by part, as suits a processor's caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FEWEST_IN_PART, PIXELS_IN_PART = 16, 2**17
"""Of one pass on a processor, whose caches are to hold what a layer reads and writes: 128 images of 32 x 32 pixels, 32
of 64, and 16 of 91 and more. For three networks that is within 5 % of the fastest (``benchmarks/batch_parts.py``); 64
images of 32 x 32 pixels in parts of 16 took up to 58 % longer, and at 96 pixels all at once 25 %."""


def part_size(images: Tensor) -> int:
    """Return how many of images (N, C, H, W) a processor computes at a time."""
    return max(FEWEST_IN_PART, PIXELS_IN_PART // (images.shape[-2] * images.shape[-1]))


def parts_of(images: Tensor) -> tuple[Tensor, ...]:
    """Return images (N, C, H, W) in the parts that suit a processor; elsewhere as one."""
    count = part_size(images)
    return images.split(count) if images.device.type == "cpu" and len(images) > count else (images,)


def in_parts(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return what ``model`` gives for images (N, C, H, W) under one gradient, on a processor computed part by part."""
    parts = parts_of(images)
    return model(images) if len(parts) == 1 else torch.cat([model(part) for part in parts])
