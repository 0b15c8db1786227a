"""load_data(): an id, an image folder or torch datasets -> train, validation and test images in pixel space."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from genaf_sdk.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MEMORY_LIMIT = 4 * 2**30  # bytes of decoded pixels that are kept in memory
DATA_IDS = ("digits", "folder:PATH")


class LabelledImages(Dataset[tuple[Tensor, Tensor]]):
    """Images of one split: ``images[i]`` is pixels (C, H, W), float32 in [0, 1], and the label.

    Args:
        labels: Class of each image, int64 (N,).
        read: Returns the pixels (B, C, H, W) of the images at the indices given: uint8 (0 to 255) or float32 ([0, 1]).
    """

    def __init__(self, labels: Tensor, read: Callable[[Sequence[int]], Tensor]) -> None:
        self.labels, self._read = labels, read

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, labels = self.__getitems__([index])
        return pixels[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch at once: pixels (B, C, H, W) and labels (B,)."""
        return _as_pixels(self._read(indices)), self.labels[torch.as_tensor(indices, dtype=torch.long)]

    def head(self, count: int | None = None, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Return pixels and labels of the first ``count`` images, or of ``count`` drawn by ``seed``; None is all."""
        order = (
            list(range(len(self))) if seed is None else torch.randperm(len(self), generator=_generator(seed)).tolist()
        )
        return self.__getitems__(order[:count])

    def subset(self, indices: Sequence[int]) -> LabelledImages:
        """Return the images at ``indices`` as a split of their own."""
        chosen = list(indices)
        return LabelledImages(self.labels[chosen], lambda wanted: self._read([chosen[index] for index in wanted]))

    @classmethod
    def in_memory(cls, pixels: Tensor, labels: Tensor) -> LabelledImages:
        """Make a split of pixels (N, C, H, W), uint8 or float32 in [0, 1], and labels (N,).

        Raises:
            DataError: Pixels outside [0, 1], or of another shape.
        """
        _check_pixels(pixels)
        return cls(labels.long(), lambda indices: pixels[torch.as_tensor(indices, dtype=torch.long)])


@dataclass(frozen=True)
class DataSplits:
    """Train, validation and test images of one task.

    Args:
        train: What the model learns from.
        validation: What decides between models; never trained on.
        test: Touched once, for the report.
        class_names: One name a class, in the order of the labels.
        name: What the report calls the data.
        notes: What was decided for the user, for the log and the report.
    """

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    name: str = "data"
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        count = len(self.class_names)
        if count < 2:
            raise DataError(f"The data {self.name!r} has {count} class(es).", expected="at least two classes")
        for name, split in self.splits().items():
            if len(split) == 0:
                raise DataError(f"The {name} split of {self.name!r} is empty.", expected="at least one image a class")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= count:
                raise DataError(
                    f"The {name} split of {self.name!r} has the label {low if low < 0 else high}.",
                    expected=f"labels from 0 to {count - 1}, as there are {count} classes",
                )
            missing = sorted(set(range(count)) - set(split.labels.tolist()))
            if missing:
                raise DataError(
                    f"The {name} split of {self.name!r} has no image of class {self.class_names[missing[0]]!r}.",
                    expected="every class in every split",
                    remedy="give more images of that class, or remove the class",
                )

    def splits(self) -> dict[str, LabelledImages]:
        """Return the three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.train[0][0].shape
        return channels, height, width

    def describe(self) -> dict[str, Any]:
        """Return sizes, classes, notes and a SHA-256 fingerprint (labels and up to 256 images a split)."""
        digest = hashlib.sha256()
        for split in self.splits().values():
            pixels, _ = split.head(256)
            digest.update(split.labels.numpy().tobytes())
            digest.update(pixels.mul(255).round().to(torch.uint8).numpy().tobytes())
        return {
            "name": self.name,
            "sizes": {name: len(split) for name, split in self.splits().items()},
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "notes": list(self.notes),
            "fingerprint": digest.hexdigest(),
        }


def load_data(
    dataset: str | Path | DataSplits | Dataset[Any] | Sequence[Dataset[Any]],
    *,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    validation_fraction: float = 0.15,
    seed: int = 0,
) -> DataSplits:
    """Return a task's images, decoded, resized and split.

    Args:
        dataset: ``"digits"``; a folder ``CLASS/IMAGE`` or ``train|val|test/CLASS/IMAGE``; one torch dataset of
            (image, label) pairs, which is split; a sequence of two (train, test) or three (train, validation, test); or
            ``DataSplits``, returned as they are. Images are PIL images, or tensors (C, H, W), uint8 or float in [0, 1].
        image_size: (H, W) that every image is resized to (bilinear, antialiased, aspect ratio not kept); None keeps the
            size of the first image.
        channels: 3 (grey images are repeated) or 1.
        validation_fraction: Share of the training images set aside, stratified by class, where there is no such split.
        seed: Decides which.

    Raises:
        DataError: Unknown id, or images or labels that cannot be used; the message says which and why.
    """
    if isinstance(dataset, DataSplits):
        return dataset
    class_names: tuple[str, ...] | None
    if isinstance(dataset, (str, Path)):
        name, parts, class_names = _open(str(dataset))
    elif isinstance(dataset, (tuple, list)) and len(dataset) in (2, 3):
        name, parts, class_names = type(dataset[0]).__name__, tuple(dataset), _class_names(dataset[0])
    elif isinstance(dataset, Dataset):
        name, parts, class_names = type(dataset).__name__, (dataset,), _class_names(dataset)
    else:
        raise DataError(
            f"The data set is a {type(dataset).__name__}.",
            expected=f"a torch Dataset, a sequence of two or three, DataSplits, or one of {', '.join(DATA_IDS)}",
        )
    decoded = [_decode(part, image_size, channels, name) for part in parts]
    notes = []
    if len(decoded) == 1:
        train, test = _split(decoded[0], 0.25, seed=0)
        notes.append(
            f"no test split: {len(test)} of {len(decoded[0])} images, stratified by class, were set aside as one"
        )
        decoded = [train, test]
    if len(decoded) == 2:
        train, validation = _split(decoded[0], validation_fraction, seed=seed)
        notes.append(
            f"no validation split: {len(validation)} training images, stratified by class, were set aside as one"
        )
        decoded = [train, validation, decoded[1]]
    train, validation, test = decoded
    if class_names is None:
        class_names = tuple(str(label) for label in range(int(train.labels.max()) + 1)) if len(train) else ()
    return DataSplits(train, validation, test, class_names, name, tuple(notes))


def _open(spec: str) -> tuple[str, tuple[Dataset[Any], ...], tuple[str, ...]]:
    if spec == "digits":
        return "digits", _digits(), tuple("0123456789")
    path = Path(spec.removeprefix("folder:")).expanduser()
    if not path.is_dir():
        raise DataError(
            f"There is no data set and no folder {spec!r}.", expected=f"a torch Dataset or one of {', '.join(DATA_IDS)}"
        )
    return path.resolve().name, *_folder(path)


def _digits() -> tuple[Dataset[Any], ...]:
    """scikit-learn's digits: 1,797 scans of 8 x 8 pixels with 16 grey levels, from 13 writers; a quarter is for testing."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    pixels = torch.from_numpy(scans.images).float()[:, None] / 16
    labels = torch.from_numpy(scans.target).long()
    train, test = _split(LabelledImages.in_memory(pixels, labels), 0.25, seed=0)
    return train, test


def _folder(path: Path) -> tuple[tuple[Dataset[Any], ...], tuple[str, ...]]:
    from torchvision.datasets import ImageFolder

    spellings = {
        "train": ("train", "training"),
        "validation": ("val", "validation", "valid"),
        "test": ("test", "testing"),
    }
    found = {
        split: next((path / name for name in names if (path / name).is_dir()), None)
        for split, names in spellings.items()
    }
    if found["train"] is None:
        folders = [path]
    elif found["test"] is None:
        raise DataError(f"{path} has a folder 'train' but none for testing.", expected="train/, test/ and perhaps val/")
    else:
        folders = [folder for folder in found.values() if folder is not None]
    try:
        parts = [ImageFolder(str(folder), loader=_open_image) for folder in folders]
    except FileNotFoundError as error:
        raise DataError(f"{path} holds no images: {error}.", expected="PATH/CLASS/IMAGE.png or .jpg") from error
    for part, folder in zip(parts, folders, strict=True):
        if part.classes != parts[0].classes:
            odd = sorted(set(part.classes) ^ set(parts[0].classes))[0]
            raise DataError(f"The class {odd!r} is not in both {folders[0]} and {folder}.", expected="the same classes")
    return tuple(parts), tuple(parts[0].classes)


def _open_image(path: str) -> Image.Image:
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP", "BMP")) as image:
            image.load()
            return image
    except (OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise DataError(f"The image {path} cannot be decoded: {error}.", remedy="repair or remove it") from error


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    names = getattr(dataset, "classes", None)
    return tuple(str(name) for name in names) if names is not None else None


def _decode(source: Any, size: tuple[int, int] | None, channels: int, name: str) -> LabelledImages:
    """Bring every image to one size and, where they fit, keep all of them decoded in memory."""
    count = len(source)
    if count == 0:
        raise DataError(f"The data {name!r} is empty.", expected="labelled images")
    if size is None:
        height, width = _to_tensor(source[0][0], channels, name, 0).shape[1:]
        size = (height, width)

    def read(indices: Sequence[int]) -> Tensor:
        return torch.stack([_resize(_to_tensor(source[i][0], channels, name, i), size) for i in indices])

    known = getattr(source, "labels", None)
    known = getattr(source, "targets", None) if known is None else known
    if count * channels * size[0] * size[1] * 4 > MEMORY_LIMIT:
        labels = known if known is not None else [source[index][1] for index in range(count)]
        return LabelledImages(_as_labels(labels, name), lambda indices: _check_pixels(read(indices)))
    labels, pixels = [], []
    for index in range(count):
        image, label = source[index]
        labels.append(label)
        pixels.append(_resize(_to_tensor(image, channels, name, index), size))
    return LabelledImages.in_memory(torch.stack(pixels), _as_labels(labels, name))


def _as_labels(labels: Any, name: str) -> Tensor:
    tensor = torch.as_tensor(np.asarray([int(label) for label in labels], dtype=np.int64))
    if tensor.ndim != 1:
        raise DataError(f"The labels of {name!r} have shape {tuple(tensor.shape)}.", expected="one integer an image")
    return tensor


def _to_tensor(image: Any, channels: int, name: str, index: int) -> Tensor:
    """Turn a PIL image, array or tensor into (C, H, W), uint8 or float32."""
    if isinstance(image, Image.Image):
        array = np.asarray(image.convert("RGB" if channels == 3 else "L"))
        image = torch.from_numpy(array.copy()).view(*array.shape[:2], channels).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image)
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in (1, channels):
        given = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            f"Image {index} of {name!r} is {given}.", expected=f"a PIL image or a tensor ({channels}, H, W)"
        )
    pixels = image if image.dtype == torch.uint8 else image.float()
    return pixels.expand(channels, -1, -1)


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if pixels.shape[1:] == torch.Size(size):
        return pixels
    resized = F.interpolate(_as_pixels(pixels)[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    return resized if pixels.dtype != torch.uint8 else resized.mul(255).round().clamp(0, 255).to(torch.uint8)


def _as_pixels(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def _check_pixels(pixels: Tensor) -> Tensor:
    if pixels.ndim != 4:
        raise DataError(f"The images have shape {tuple(pixels.shape)}.", expected="(N, C, H, W)")
    if pixels.dtype == torch.uint8:
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


def _split(images: LabelledImages, fraction: float, *, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Set ``fraction`` of every class aside (at least one image), drawn by ``seed``."""
    kept: list[int] = []
    aside: list[int] = []
    generator = _generator(seed)
    for label in images.labels.unique().tolist():
        members = torch.nonzero(images.labels == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            raise DataError(
                f"Class {label} has {len(members)} image(s).", expected="enough for training, validation and test each"
            )
        aside += members[:count].tolist()
        kept += members[count:].tolist()
    return images.subset(sorted(kept)), images.subset(sorted(aside))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
