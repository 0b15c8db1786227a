"""A seeded sample of a split, read in batches: what a pass over many images needs in memory is one batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genaf_sdk.data.images import LabeledImages, generator_of
from genaf_sdk.memory import give_back

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


COLOR_IMAGES = 512
"""Training images whose mean color hides a patch."""
MOST_IMAGES, MOST_VALUES = 500, 2**23
"""Of one batch: 500 images of up to 74 x 74 pixels, 55 of 224 x 224 (34 MB)."""


def batch_size(shape: Sequence[int]) -> int:
    """Return how many inputs of a shape are put through a network at once."""
    return max(1, min(MOST_IMAGES, MOST_VALUES // max(1, math.prod(shape))))


@dataclass(frozen=True)
class Sample:
    """Images of a split in an order of their own.

    Args:
        images: The split.
        order: Indices of the images, in the order in which they are read.
    """

    images: LabeledImages
    order: Tensor

    @classmethod
    def draw(cls, images: LabeledImages, count: int | None = None, *, seed: int) -> Sample:
        """Return ``count`` images drawn by ``seed``, the same as ``images.sample(count, seed=seed)``; None is all."""
        return cls(images, torch.randperm(len(images), generator=generator_of(seed))[:count])

    def __len__(self) -> int:
        return len(self.order)

    @property
    def labels(self) -> Tensor:
        """Classes of the images, int64 (N,)."""
        return self.images.labels[self.order]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W)."""
        return tuple(self.images[int(self.order[0])][0].shape)

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """Return pixels (n, C, H, W) and labels (n,) of the first ``count`` images."""
        return self.at(range(min(count, len(self))))

    def at(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return pixels (n, C, H, W) and labels (n,) of the images at some places of the order."""
        return self.images.__getitems__(self.order[list(places)].tolist())

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pixels (B, C, H, W) and labels (B,) of all images in order, and give back what a batch took."""
        for indices in self.order.split(batch_size(self.shape)):
            yield self.images.__getitems__(indices.tolist())
            give_back()


def mask_color(train: LabeledImages, seed: int) -> tuple[float, ...]:
    """Return the color that hides a patch, one number a channel to four digits: the mean of training images.

    Report, ONNX file and server have to mask with the same color: a certificate of one is none of another.

    Args:
        train: The training images, of which ``COLOR_IMAGES`` count.
        seed: Draws these.
    """
    pixels, _ = train.sample(COLOR_IMAGES, seed=seed)
    return tuple(round(float(value), 4) for value in pixels.mean(dim=(0, 2, 3)))
