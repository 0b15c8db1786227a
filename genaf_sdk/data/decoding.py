"""From whatever a source gives, PIL images, arrays or tensors, to pixels of one size; kept decoded where they fit."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import get_worker_info

from genaf_sdk.data.images import LabeledImages
from genaf_sdk.data.loading import memory, processors
from genaf_sdk.data.pictures import EncodedImages, Unreadable, on_white, peculiarities, require_decodable
from genaf_sdk.data.samples import Samples, as_labels
from genaf_sdk.errors import DataError
from genaf_sdk.inputs.images import check_pixels, image_space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MEMORY_LIMIT = min(2**30, memory() // 8)
"""Bytes of decoded pixels that are kept in memory, of all parts of a data set together."""
AHEAD = 1024  # so many images at most are decoded before they are asked for
# Pillow's three other filters have no counterpart on tensors; each is served by the nearest one that has.
INTERPOLATIONS = {
    "nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic", "lanczos": "bicubic",
    "box": "bilinear", "hamming": "bilinear",
}  # fmt: skip
REREAD = 8  # images that are read twice to see whether they are the same each time
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Target:
    """What every image is brought to.

    Args:
        size: (H, W).
        channels: 1, 3, or as many as the source's arrays have.
        interpolation: How it is resized.
        name: Of the data, for errors.
    """

    size: tuple[int, int]
    channels: int
    interpolation: str
    name: str

    def __post_init__(self) -> None:
        numbers = (*self.size, self.channels) if isinstance(self.size, (tuple, list)) and len(self.size) == 2 else (0,)
        if not all(isinstance(number, int) and number > 0 for number in numbers):
            raise DataError(
                f"image_size is {self.size!r} and channels is {self.channels!r}.",
                expected="a pair (height, width) of pixels and a number of channels, all whole numbers above 0",
            )
        if self.interpolation not in INTERPOLATIONS:
            raise DataError(
                f"The interpolation is {self.interpolation!r}.", expected=f"one of {', '.join(INTERPOLATIONS)}"
            )


@dataclass(frozen=True)
class Decoded:
    """Images, the indices that they had in the source, and the others, each with its reason.

    ``peculiar`` counts what ``PECULIARITIES`` names, among the images that were kept.
    """

    images: LabeledImages
    kept: list[int]
    unreadable: list[str]
    peculiar: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Reading:
    """One image at its final size, its label, what is peculiar about it, and its file's SHA-256 if wanted."""

    pixels: Tensor
    label: Any
    peculiar: list[str]
    file_digest: bytes


def first_size(source: Any, channels: int, name: str) -> tuple[int, int]:
    """Return (H, W) of the first image that can be read.

    Raises:
        DataError: There is none.
    """
    reason = ""
    for index in range(len(source)):
        image = _attempt(lambda index=index: to_tensor(source[index][0], channels, name, index), index)  # type: ignore[misc]
        if isinstance(image, Tensor):
            return int(image.shape[1]), int(image.shape[2])
        reason = reason or f": {image}"
    raise DataError(f"The data {name!r} holds no image that can be read{reason}.", expected="labeled images")


def decode_parts(sources: Sequence[Any], target: Target) -> list[Decoded]:
    """Decode the parts of a data set; as many of the first ones as fit into ``MEMORY_LIMIT`` stay in memory."""
    found, left = [], MEMORY_LIMIT
    for source in sources:
        size = _bytes_of(source, target)
        found.append(decode(source, target, in_memory=size <= left))
        left -= size if size <= left else 0
    return found


def decode(source: Any, target: Target, *, in_memory: bool) -> Decoded:
    """Bring every image to one size and, if asked for, keep all of them decoded in memory.

    Images that cannot be read are left out and named; of data that stays on disk, only headers are looked at now.

    Raises:
        DataError: There is no image, none can be read, or one is of another type than the first.
    """
    if len(source) == 0:
        raise DataError(f"The data {target.name!r} is empty.", expected="labeled images")
    if isinstance(source, LabeledImages):
        batches = [resize(_match_channels(batch, target), target) for batch in source.raw_batches()]
        return Decoded(LabeledImages.in_memory(torch.cat(batches), source.labels), list(range(len(source))), [])
    if not in_memory:
        return _on_disk(source, target)
    pixels, labels, digests = torch.empty(0), [], bytearray()
    kept: list[int] = []
    unreadable: list[str] = []
    peculiar: Counter[str] = Counter()
    for index, result in enumerate(
        _for_each(lambda i: _attempt(lambda: _read(source, i, target, digest=True), i), source)
    ):
        if isinstance(result, str):
            unreadable.append(result)
            continue
        image = result.pixels
        if not kept:
            pixels = torch.empty((len(source), *image.shape), dtype=image.dtype)
        if image.dtype != pixels.dtype:
            raise DataError(
                f"Image {index} of {target.name!r} is {image.dtype}.", expected=f"{pixels.dtype} as the first"
            )
        pixels[len(kept)] = image
        kept.append(index)
        labels.append(result.label)
        digests += result.file_digest
        peculiar.update(result.peculiar)
    if not kept:
        raise DataError(f"None of the {len(source)} images of {target.name!r} can be read: {unreadable[0]}")
    images = LabeledImages.in_memory(pixels[: len(kept)], as_labels(labels, target.name), bytes(digests))
    return Decoded(images, kept, unreadable, peculiar)


@dataclass(frozen=True)
class _OnDisk:
    """Reads images when they are asked for: those that were kept of ``source``."""

    source: Any
    kept: list[int]
    target: Target

    def __call__(self, indices: Sequence[int]) -> Tensor:
        try:
            read = _for_each(lambda i: _read(self.source, self.kept[i], self.target).pixels, self.source, indices)
            batch = list(read)
            return check_pixels(torch.stack(batch))
        except Unreadable as error:
            raise DataError(
                f"An image of {self.target.name!r} cannot be decoded: {error}.", remedy="repair or remove it"
            ) from error

    def identities(self, indices: Sequence[int]) -> list[bytes] | None:
        return self._of_files(lambda files, index: files.identity(index), indices)

    def digests(self, indices: Sequence[int]) -> list[bytes] | None:
        return self._of_files(lambda files, index: files.digest(index), indices)

    def _of_files(self, work: Callable[[EncodedImages, int], bytes], indices: Sequence[int]) -> list[bytes] | None:
        files = self.source
        if not isinstance(files, EncodedImages):
            return None
        return list(_for_each(lambda index: work(files, self.kept[index]), files, indices))


def _on_disk(source: Any, target: Target) -> Decoded:
    checked: list[Any] = [[]] * len(source)
    if isinstance(source, EncodedImages):
        checked = list(_for_each(lambda index: _attempt(lambda: source.check(index), index), source))
    kept = [index for index, result in enumerate(checked) if not isinstance(result, str)]
    known = source.known_labels() if isinstance(source, Samples) else source.labels
    labels = as_labels([known[index] for index in kept], target.name)
    images = LabeledImages(labels, _OnDisk(source, kept, target), on_disk=True)
    peculiar = Counter(key for index in kept for key in checked[index])
    return Decoded(images, kept, [result for result in checked if isinstance(result, str)], peculiar)


def _read(source: Any, index: int, target: Target, *, digest: bool = False) -> _Reading:
    peculiar: list[str] = []
    file_digest = b""
    if isinstance(source, EncodedImages):
        image, peculiar = source.picture(index)
        label, file_digest = source.labels[index], source.digest(index) if digest else b""
    else:
        image, label = source[index]
        if isinstance(image, Image.Image):
            peculiar = peculiarities(image)
    pixels = resize(to_tensor(image, target.channels, target.name, index)[None], target)[0]
    return _Reading(pixels, label, peculiar, file_digest)


def changes(source: Any, target: Target) -> bool:
    """Whether an image of a data set is another each time it is read, as with an augmentation in its transform."""
    if not isinstance(source, Samples):
        return False

    def as_read(index: int) -> Tensor:
        return to_tensor(source[index][0], target.channels, target.name, index)

    places = sorted({round(place * (len(source) - 1) / (REREAD - 1)) for place in range(REREAD)})
    with torch.random.fork_rng(devices=[]):
        for index in places if len(source) else ():
            first, second = (_attempt(lambda i=index: as_read(i), index) for _ in range(2))  # type: ignore[misc]
            if isinstance(first, Tensor) and isinstance(second, Tensor) and not torch.equal(first, second):
                return True
    return False


def _attempt(read: Callable[[], Any], index: int) -> Any:
    """Return what ``read`` gives, or the reason as text where an image cannot be read."""
    try:
        return read()
    except Unreadable as error:
        return error.problem
    except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return f"image {index} ({error})"


def _for_each(work: Callable[[int], Any], source: Any, indices: Sequence[int] | None = None) -> Iterator[Any]:
    """Yield ``work`` of every index, in order; in threads where images are encoded, as Pillow decodes in parallel."""
    indices = range(len(source)) if indices is None else indices
    threads = min(8, processors(), len(indices))
    if threads < 2 or not isinstance(source, EncodedImages) or get_worker_info() is not None:
        yield from map(work, indices)
        return
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(indices), AHEAD):
            yield from pool.map(work, indices[start : start + AHEAD])


def _bytes_of(source: Any, target: Target) -> int:
    example = _attempt(lambda: source[0][0], 0) if len(source) else None
    floats = isinstance(example, (Tensor, np.ndarray)) and str(example.dtype).rpartition(".")[2] != "uint8"
    count: int = len(source) * target.channels * target.size[0] * target.size[1]
    return count * (4 if floats else 1)


def to_tensor(image: Any, channels: int, name: str, index: int) -> Tensor:
    """Turn a PIL image, an array (H, W), (H, W, C) or (C, H, W), or a tensor into (C, H, W), uint8 or float32.

    Raises:
        DataError: It is something else, or has another number of channels.
    """
    if isinstance(image, Image.Image):
        require_decodable(image, f"image {index}")
        if channels not in MODES or (channels == 4 and image.mode != "RGBA"):  # CMYK would become other colors
            raise DataError(
                f"Image {index} of {name!r} has the bands {', '.join(image.getbands())}.",
                expected=f"{channels} channels" + (": R, G, B and A" if channels == 4 else ""),
                remedy="give images of other bands as arrays",
            )
        array = np.asarray(image if channels == 4 else on_white(image).convert(MODES[channels]))
        image = torch.from_numpy(array.copy()).view(*array.shape[:2], channels).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        last = image.ndim == 3 and image.shape[-1] in (1, channels) and image.shape[0] not in (1, channels)
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1) if last else image))
    if isinstance(image, Tensor) and image.ndim == 2:
        image = image[None]
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in (1, channels):
        given = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            f"Image {index} of {name!r} is {given}.", expected=f"a PIL image or a tensor ({channels}, H, W)"
        )
    if image.dtype not in (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise DataError(f"Image {index} of {name!r} is of type {image.dtype}.", expected="uint8, or floats in [0, 1]")
    pixels = image if image.dtype == torch.uint8 else image.float()
    return pixels.expand(channels, -1, -1)


def _match_channels(batch: Tensor, target: Target) -> Tensor:
    if batch.shape[1] not in (1, target.channels):
        raise DataError(f"The images of {target.name!r} have {batch.shape[1]} channels.", expected=str(target.channels))
    return batch.expand(-1, target.channels, -1, -1)


def resize(pixels: Tensor, target: Target) -> Tensor:
    """Bring images (N, C, H, W) to the size, antialiased, aspect ratio not kept; the type stays what it was.

    Bytes are resized as bytes: the same within a gray level, 25 times as fast, and large photographs take no gigabytes.
    """
    if pixels.shape[2:] == torch.Size(target.size):
        return pixels
    mode = INTERPOLATIONS[target.interpolation]
    if mode == "nearest-exact":
        rows, columns = (_nearest(*sides) for sides in zip(pixels.shape[2:], target.size, strict=True))
        return check_pixels(pixels)[:, :, rows][:, :, :, columns]
    resized = F.interpolate(check_pixels(pixels), target.size, mode=mode, antialias=True)
    return resized if pixels.dtype == torch.uint8 else image_space(resized).clip(resized)


def _nearest(given: int, wanted: int) -> Tensor:
    """Return which of ``given`` rows hold the centers of ``wanted`` ones; of two that touch there, the later one.

    In whole numbers, as a server computes it: torch and Pillow round where they touch, each in its own way.
    """
    return (2 * torch.arange(wanted) + 1) * given // (2 * wanted)
