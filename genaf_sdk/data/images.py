"""LabelledImages: the images of one split, decoded in memory or read when they are asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from genaf_sdk.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Reader(Protocol):
    """Where the pixels of a split come from. It can be pickled, so that other processes can read ahead."""

    def __call__(self, indices: Sequence[int]) -> Tensor:
        """Return the pixels (B, C, H, W) of some images: uint8 (0 to 255) or float32 ([0, 1])."""

    def identities(self, indices: Sequence[int]) -> list[bytes] | None:
        """Return bytes for each image that are equal for equal images; None where that would mean to decode them."""


class LabelledImages(Dataset[tuple[Tensor, Tensor]]):
    """Images of one split: ``images[i]`` is pixels (C, H, W), float32 in [0, 1], and the label.

    Args:
        labels: Class of each image, int64 (N,).
        reader: Gives the pixels.
        on_disk: Whether reading means decoding files, so that a pass over all images is slow.
    """

    def __init__(self, labels: Tensor, reader: Reader, *, on_disk: bool = False) -> None:
        self.labels, self.reader, self.on_disk = labels, reader, on_disk

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, labels = self.__getitems__([index])
        return pixels[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch at once: pixels (B, C, H, W) and labels (B,)."""
        return as_pixels(self.reader(indices)), self.labels[torch.as_tensor(indices, dtype=torch.long)]

    def head(self, count: int | None = None, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Return pixels and labels of the first ``count`` images, or of ``count`` drawn by ``seed``; None is all."""
        order = (
            list(range(len(self))) if seed is None else torch.randperm(len(self), generator=generator_of(seed)).tolist()
        )
        return self.__getitems__(order[:count])

    def raw_batches(self, size: int = 512) -> Iterator[Tensor]:
        """Yield the pixels (B, C, H, W) of all images in order, as they are kept: uint8 or float32."""
        for start in range(0, len(self), size):
            yield self.reader(range(start, min(start + size, len(self))))

    def subset(self, indices: Sequence[int]) -> LabelledImages:
        """Return the images at ``indices`` as a split of their own."""
        chosen = list(indices)
        return LabelledImages(self.labels[chosen], _Chosen(self.reader, chosen), on_disk=self.on_disk)

    @classmethod
    def in_memory(cls, pixels: Tensor, labels: Tensor) -> LabelledImages:
        """Make a split of pixels (N, C, H, W), uint8 or float32 in [0, 1], and labels (N,).

        Raises:
            DataError: Pixels outside [0, 1], or of another shape.
        """
        check_pixels(pixels)
        return cls(labels.long(), _InMemory(pixels))


@dataclass(frozen=True)
class _InMemory:
    """Pixels (N, C, H, W)."""

    pixels: Tensor

    def __call__(self, indices: Sequence[int]) -> Tensor:
        return self.pixels[torch.as_tensor(indices, dtype=torch.long)]

    def identities(self, indices: Sequence[int]) -> list[bytes]:
        return [fingerprint(self.pixels[index].contiguous().numpy().tobytes()) for index in indices]


@dataclass(frozen=True)
class _Chosen:
    """Some images of another reader, by their indices there."""

    reader: Reader
    chosen: list[int]

    def __call__(self, indices: Sequence[int]) -> Tensor:
        return self.reader([self.chosen[index] for index in indices])

    def identities(self, indices: Sequence[int]) -> list[bytes] | None:
        return self.reader.identities([self.chosen[index] for index in indices])


def fingerprint(content: bytes) -> bytes:
    """Return 16 bytes that two different contents do not share."""
    return hashlib.blake2b(content, digest_size=16).digest()


def as_pixels(pixels: Tensor) -> Tensor:
    """Return float32 pixels in [0, 1]."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def check_pixels(pixels: Tensor) -> Tensor:
    """Return pixels (N, C, H, W) as they are.

    Raises:
        DataError: Another shape, or floats outside [0, 1].
    """
    if pixels.ndim != 4:
        raise DataError(f"The images have shape {tuple(pixels.shape)}.", expected="(N, C, H, W)")
    if pixels.dtype == torch.uint8 or len(pixels) == 0:
        return pixels
    low, high = (float(value) for value in torch.aminmax(pixels))
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise DataError(
            f"The pixels reach from {low:g} to {high:g}.",
            expected="pixels in [0, 1]",
            remedy="remove Normalize from the data's transform: normalisation belongs inside the encoder "
            "(load_encoder(module, mean=..., std=...))",
        )
    return pixels


def generator_of(seed: int) -> torch.Generator:
    """Return a generator on the CPU."""
    return torch.Generator().manual_seed(seed)
