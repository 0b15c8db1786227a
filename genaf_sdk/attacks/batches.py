"""Images in batches: shuffled without end to craft on, in order to read outputs of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

READING = 512
"""Images in a batch of which only outputs are wanted."""


def endless_batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of shuffled batches, epoch after epoch; every batch is whole where ``count`` allows it."""
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def image_batches(images: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled batches (B, C, H, W) without end; every image comes up once an epoch."""
    for indices in endless_batches(len(images), size, generator):
        yield images[indices.to(images.device)]


@torch.no_grad()
def outputs_of(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return what ``model`` gives for images (N, C, H, W), computed in batches."""
    return torch.cat([model(batch) for batch in images.split(READING)])
