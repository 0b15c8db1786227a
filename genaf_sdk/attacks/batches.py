"""Images in batches: shuffled without end to craft on, in order to read outputs of."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch

from genaf_sdk.models.forwards import is_lowered
from genaf_sdk.models.parts import in_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

READING = 512
"""Images in a batch of which only outputs are wanted."""
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


@torch.no_grad()
def outputs_of(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return what ``model`` gives for images (N, C, H, W), computed in batches."""
    return torch.cat([in_parts(model, batch) for batch in images.split(READING)])


def features_of(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return what ``encoder`` gives for images (N, C, H, W); within ``sharing_features`` computed once."""
    known = _known.get()
    key = id(encoder), id(images), is_lowered(encoder)
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
