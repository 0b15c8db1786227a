"""Images in batches: shuffled without end to craft on, in order to read outputs of."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

READING = 512
"""Images in a batch of which only outputs are wanted."""
FEWEST_IN_PART, PIXELS_IN_PART = 16, 2**17
"""Of one pass on a processor, whose caches are to hold what a layer reads and writes: 128 images of 32 x 32 pixels, 32
of 64, and 16 of 91 and more. For three networks that is within 5 % of the fastest (``benchmarks/batch_parts.py``); 64
images of 32 x 32 pixels in parts of 16 took up to 58 % longer, and at 96 pixels all at once 25 %."""
_known: ContextVar[dict[tuple[int, int, bool], tuple[nn.Module, Tensor, Tensor]] | None] = ContextVar(
    "_known", default=None
)


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


def part_size(images: Tensor) -> int:
    """Return how many of images (N, C, H, W) a processor computes at a time."""
    return max(FEWEST_IN_PART, PIXELS_IN_PART // (images.shape[-2] * images.shape[-1]))


def in_parts(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return what ``model`` gives for images (N, C, H, W) under one gradient, on a processor computed part by part."""
    count = part_size(images)
    if images.device.type != "cpu" or len(images) <= count:
        return model(images)
    return torch.cat([model(part) for part in images.split(count)])


@torch.no_grad()
def outputs_of(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return what ``model`` gives for images (N, C, H, W), computed in batches."""
    return torch.cat([in_parts(model, batch) for batch in images.split(READING)])


def features_of(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return what ``encoder`` gives for images (N, C, H, W); within ``sharing_features`` computed once."""
    known = _known.get()
    key = id(encoder), id(images), "forward" in vars(encoder)  # the last one tells arithmetic: precision.forward_in
    if known is None or key not in known:
        features = outputs_of(encoder, images)
        if known is None:
            return features
        known[key] = encoder, images, features  # which also keeps the ids from being given to others
    return known[key][2]


@contextmanager
def sharing_features() -> Iterator[None]:
    """Context, within which no encoder and no tensor of images changes: their features are computed once."""
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)
