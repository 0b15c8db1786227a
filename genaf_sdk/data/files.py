"""Image files: which are read, how one is opened safely, and folders of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from PIL import Image, ImageOps
from torch.utils.data import Dataset

from genaf_sdk.data.images import fingerprint
from genaf_sdk.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
LARGEST = 89_478_485  # pixels, Pillow's limit for what may be a decompression bomb
SAMPLE = 64 * 2**10
SPLITS = {"train": ("train", "training"), "validation": ("val", "validation", "valid"), "test": ("test", "testing")}


class Unreadable(DataError):  # noqa: N818  # it is collected, and raised as one DataError for all images
    """One image cannot be used."""


class ImageFiles(Dataset[tuple[Image.Image, int]]):
    """Files and their classes; reading is safe from several threads.

    Args:
        paths: The files.
        labels: The class of each.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int]) -> None:
        self.paths, self.labels = list(paths), list(labels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return open_image(self.paths[index]), self.labels[index]

    def check(self, index: int) -> None:
        """Look at the file's header alone: is it an image, and of a size that can be decoded?"""
        _open(self.paths[index]).close()

    def identity(self, index: int) -> bytes:
        """Return the fingerprint of a file's length and of ``SAMPLE`` bytes in its middle: fast on any disk."""
        length = self.paths[index].stat().st_size
        with self.paths[index].open("rb") as file:
            file.seek(max(0, (length - SAMPLE) // 2))
            return fingerprint(length.to_bytes(8) + file.read(SAMPLE))


def open_image(path: str | Path) -> Image.Image:
    """Return a decoded image, turned as its EXIF orientation says, as the server turns what it is sent.

    Raises:
        Unreadable: The file is missing, damaged, no image, of more than 8 bits a channel, or a decompression bomb.
    """
    with _open(path) as image:
        try:
            return ImageOps.exif_transpose(image)
        except Exception as error:  # Pillow's decoders raise whatever their parsers do
            raise Unreadable(f"{path} ({error or type(error).__name__})") from error


def _open(path: str | Path) -> Image.Image:
    try:
        image = Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(f"{path} (more than {LARGEST} pixels, perhaps a decompression bomb)") from error
    except Exception as error:  # Pillow's decoders raise whatever their parsers do
        reason = "no image" if "cannot identify" in str(error) else error or type(error).__name__
        raise Unreadable(f"{path} ({reason})") from error
    try:
        require_decodable(image, str(path))
    except Unreadable:
        image.close()
        raise
    return image


def require_decodable(image: Image.Image, name: str) -> None:
    """Check the size and mode of an image that is perhaps not decoded yet.

    Raises:
        Unreadable: It may be a decompression bomb, or has more than 8 bits a channel.
    """
    if image.width * image.height > LARGEST:
        raise Unreadable(f"{name} ({image.width} x {image.height} pixels, perhaps a decompression bomb)")
    if image.mode.startswith(("I", "F")):
        raise Unreadable(f"{name} (more than 8 bits a channel; convert it first)")


def read_folder(folder: Path) -> tuple[tuple[ImageFiles, ...], tuple[str, ...], list[str]]:
    """Read ``CLASS/IMAGE`` or ``train|val|test/CLASS/IMAGE``.

    Returns:
        The parts (all images; training and test; or training, validation and test), class names, and notes.

    Raises:
        DataError: No training folder beside others, no classes, a class without images, or classes that differ.
    """
    found = {
        split: next((folder / name for name in names if (folder / name).is_dir()), None)
        for split, names in SPLITS.items()
    }
    notes = []
    if found["train"] is None:
        folders = [folder]
    else:
        if found["test"] is None:
            if found["validation"] is None:
                raise DataError(
                    f"{folder} has a folder 'train' but none for testing.", expected="train/, test/ and perhaps val/"
                )
            found["test"], found["validation"] = found["validation"], None
            notes.append("no test folder: the validation folder serves as one, and is used for nothing else")
        folders = [path for path in found.values() if path is not None]
    classes = {path: sorted(entry.name for entry in path.iterdir() if _is_class(entry)) for path in folders}
    names = classes[folders[0]]
    for path in folders:
        if classes[path] != names:
            odd = sorted(set(classes[path]) ^ set(names))[0]
            raise DataError(f"The class {odd!r} is not in both {folders[0]} and {path}.", expected="the same classes")
    ignored: Counter[str] = Counter()
    parts = tuple(_files(path, names, ignored) for path in folders)
    if ignored:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common())
        notes.append(f"files that are no images by their names were left out: {kinds}")
    return parts, tuple(names), notes


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith((".", "__"))


def _files(folder: Path, classes: Sequence[str], ignored: Counter[str]) -> ImageFiles:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = [path for path in sorted((folder / name).rglob("*")) if path.is_file() and path.name[0] != "."]
        images = [path for path in files if path.suffix.lower() in SUFFIXES]
        ignored.update(path.suffix.lower() or "without suffix" for path in files if path not in set(images))
        if not images:
            raise DataError(
                f"The class folder {folder / name} holds no images.",
                expected=f"files named {', '.join(SUFFIXES)}",
                remedy="remove the folder, or convert the images",
            )
        paths += images
        labels += [label] * len(images)
    if not paths:
        raise DataError(f"{folder} holds no images.", expected="PATH/CLASS/IMAGE.png or .jpg")
    return ImageFiles(paths, labels)
