"""LabeledImages: the images of one split, decoded in memory or read when they are asked for."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from genaf_sdk.errors import DataError
from genaf_sdk.inputs.images import check_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


DIGEST = 32  # bytes of a SHA-256
DIGESTED = 64  # images whose digests are made at a time
READ = 512  # images that are read at a time as they are kept


class Reader(Protocol):
    """Where the pixels of a split come from. It can be pickled, so that other processes can read ahead."""

    def __call__(self, indices: Sequence[int]) -> Tensor:
        """Return the pixels (B, C, H, W) of some images: uint8 (0 to 255) or float32 ([0, 1])."""

    def identities(self, indices: Sequence[int]) -> list[bytes] | None:
        """Return bytes for each image that are equal for equal images; None where that would mean to decode them."""

    # A reader of encoded files may have `digests(indices) -> list[bytes] | None` as well: a SHA-256 of each file, which
    # stands for the image in the fingerprint of the data. Without it, the pixels do.


class LabeledImages(Dataset[tuple[Tensor, Tensor]]):
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

    def batches(
        self, size: int = 500, *, count: int | None = None, seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what ``sample(count, seed=seed)`` returns, in the same order, as batches of at most ``size`` images.

        Only one batch is held, or two for images on disk, of which the next is decoded while one is worked on: peak
        memory does not depend on the number of images.
        """
        order = self._order(seed)[:count]
        pieces = [order[start : start + size] for start in range(0, len(order), size)]
        if not self.on_disk:
            yield from map(self.__getitems__, pieces)
            return
        with ThreadPoolExecutor(1) as ahead:
            waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()
            for piece in pieces:
                waiting.append(ahead.submit(self.__getitems__, piece))
                if len(waiting) == 2:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def sample(self, count: int | None = None, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Return pixels and labels of the first ``count`` images, or of ``count`` drawn by ``seed``; None is all."""
        return self.__getitems__(self._order(seed)[:count])

    def _order(self, seed: int | None) -> list[int]:
        if seed is None:
            return list(range(len(self)))
        order: list[int] = torch.randperm(len(self), generator=generator_of(seed)).tolist()
        return order

    def raw_batches(self) -> Iterator[Tensor]:
        """Yield the pixels (B, C, H, W) of all images in order, as they are kept: uint8 or float32."""
        for start in range(0, len(self), READ):
            yield self.reader(range(start, min(start + READ, len(self))))

    def digests(self) -> Iterator[bytes]:
        """Yield a SHA-256 for each image, in order: of its file where it comes from one, else of its pixels as bytes.

        Pixels are rounded to 256 levels, so that the last bit of a resized image, which may differ between processors,
        does not count. Files are read in pieces and not decoded; images are decoded a few at a time.
        """
        for start in range(0, len(self), DIGESTED):
            indices = range(start, min(start + DIGESTED, len(self)))
            found = file_digests(self.reader, indices)
            yield from found if found is not None else _hashes(_as_bytes(self.reader(indices)))

    def relabelled(self, labels: Tensor) -> LabeledImages:
        """Return the same images with other labels, int64 (N,)."""
        return LabeledImages(labels, self.reader, on_disk=self.on_disk)

    def subset(self, indices: Sequence[int]) -> LabeledImages:
        """Return the images at ``indices`` as a split of their own."""
        chosen = list(indices)
        return LabeledImages(self.labels[chosen], _Chosen(self.reader, chosen), on_disk=self.on_disk)

    @classmethod
    def in_memory(cls, pixels: Tensor, labels: Tensor, file_digests: bytes = b"") -> LabeledImages:
        """Make a split of pixels (N, C, H, W), uint8 or float32 in [0, 1], and labels (N,).

        Args:
            pixels: The images.
            labels: The class of each.
            file_digests: The SHA-256 of the file of each, 32 bytes one after the other; empty where there are no files.

        Raises:
            DataError: Pixels outside [0, 1] or of another shape, or another number of labels.
        """
        check_pixels(pixels)
        if labels.shape != (len(pixels),) or labels.is_floating_point():
            raise DataError(
                f"There are {len(pixels)} images and labels of shape {tuple(labels.shape)} and type {labels.dtype}.",
                expected="one whole number an image, of an integer type",
            )
        return cls(labels.long(), _InMemory(pixels, file_digests))


@dataclass(frozen=True)
class _InMemory:
    """Pixels (N, C, H, W), and the digests of the files that they come from, if they do."""

    pixels: Tensor
    file_digests: bytes = b""

    def __call__(self, indices: Sequence[int]) -> Tensor:
        return self.pixels[torch.as_tensor(indices, dtype=torch.long)]

    def identities(self, indices: Sequence[int]) -> list[bytes]:
        return [digest for index in indices for digest in _hashes(self.pixels[index : index + 1])]

    def digests(self, indices: Sequence[int]) -> list[bytes] | None:
        if not self.file_digests:
            return None
        return [self.file_digests[DIGEST * index : DIGEST * (index + 1)] for index in indices]


@dataclass(frozen=True)
class _Chosen:
    """Some images of another reader, by their indices there."""

    reader: Reader
    chosen: list[int]

    def __call__(self, indices: Sequence[int]) -> Tensor:
        return self.reader([self.chosen[index] for index in indices])

    def identities(self, indices: Sequence[int]) -> list[bytes] | None:
        return self.reader.identities([self.chosen[index] for index in indices])

    def digests(self, indices: Sequence[int]) -> list[bytes] | None:
        return file_digests(self.reader, [self.chosen[index] for index in indices])


def file_digests(reader: Reader, indices: Sequence[int]) -> list[bytes] | None:
    """Return the SHA-256 of the files that some images come from; None where they come from none."""
    known = getattr(reader, "digests", None)
    found: list[bytes] | None = None if known is None else known(indices)
    return found


def _hashes(pixels: Tensor) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in pixels.numpy()]


def _as_bytes(pixels: Tensor) -> Tensor:
    return pixels if pixels.dtype == torch.uint8 else pixels.mul(255).round().to(torch.uint8)


def as_pixels(pixels: Tensor) -> Tensor:
    """Return float32 pixels in [0, 1]."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def generator_of(seed: int) -> torch.Generator:
    """Return a generator on the CPU."""
    return torch.Generator().manual_seed(seed)
