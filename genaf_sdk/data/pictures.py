"""Picture files: formats, the largest size, and how one is opened. All decoding goes through here."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps
from torch.utils.data import Dataset

from genaf_sdk.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import BufferedReader, BytesIO
    from pathlib import Path

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
LARGEST = 89_478_485  # pixels, Pillow's limit for what may be a decompression bomb
SAMPLE = 64 * 2**10
ALPHA, PAGES = "alpha", "pages"
PECULIARITIES = {
    ALPHA: "images with an alpha channel, which were put on a white ground: {count}",
    PAGES: "files of several pages or frames, of which the first is used: {count}",
}


class Unreadable(DataError):  # noqa: N818  # it is collected, and raised as one DataError for all images
    """One image cannot be used."""


class EncodedImages(Dataset[tuple[Image.Image, Any]], ABC):
    """Encoded pictures and their classes: ``images[i]`` is (PIL image, label). Reading is safe from several threads.

    Args:
        labels: The class of each.
    """

    def __init__(self, labels: Sequence[Any]) -> None:
        self.labels = list(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        return self.picture(index)[0], self.labels[index]

    @abstractmethod
    def open(self, index: int) -> BufferedReader | BytesIO:
        """Open the bytes of a picture."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what errors call a picture."""

    def picture(self, index: int) -> tuple[Image.Image, list[str]]:
        """Return a decoded picture and what is peculiar about it (keys of ``PECULIARITIES``).

        Raises:
            Unreadable: It is missing, damaged, in another format, or too large.
        """
        with self._opened(index) as file:
            return open_picture(file, self.name(index))

    def check(self, index: int) -> list[str]:
        """Read the header alone: is it a picture of a size that can be decoded? Return what is peculiar about it.

        Raises:
            Unreadable: It is not.
        """
        with self._opened(index) as file, _open(file, self.name(index)) as image:
            return peculiarities(image)

    def digest(self, index: int) -> bytes:
        """Return the SHA-256 of the encoded bytes, which are read in pieces."""
        with self._opened(index) as file:
            return hashlib.file_digest(file, "sha256").digest()

    def identity(self, index: int) -> bytes:
        """Return a hash of the length and of ``SAMPLE`` bytes in the middle: fast on any disk."""
        with self._opened(index) as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, (length - SAMPLE) // 2))
            return hashlib.blake2b(length.to_bytes(8) + file.read(SAMPLE), digest_size=16).digest()

    def _opened(self, index: int) -> BufferedReader | BytesIO:
        try:
            return self.open(index)
        except OSError as error:
            raise Unreadable(f"{self.name(index)} ({error.strerror or error})") from error


class ImageFiles(EncodedImages):
    """Picture files and their classes.

    Args:
        paths: The files.
        labels: The class of each.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int]) -> None:
        super().__init__(labels)
        self.paths = list(paths)

    def open(self, index: int) -> BufferedReader | BytesIO:
        """Open a file."""
        return self.paths[index].open("rb")

    def name(self, index: int) -> str:
        """Return the file's path."""
        return shown(self.paths[index])


def open_picture(file: BufferedReader | BytesIO, name: str) -> tuple[Image.Image, list[str]]:
    """Decode a picture, turned as its EXIF orientation says, as the server turns what it is sent.

    Args:
        file: The encoded bytes, in one of ``FORMATS``.
        name: For errors.

    Returns:
        The picture, and what is peculiar about it (keys of ``PECULIARITIES``).

    Raises:
        Unreadable: It is damaged, in another format, of more than 8 bits a channel or more than ``LARGEST`` pixels.
    """
    with _open(file, name) as image:
        try:
            found = peculiarities(image)
            return ImageOps.exif_transpose(image), found
        except Exception as error:  # Pillow's decoders raise whatever their parsers do
            raise Unreadable(f"{name} ({error or type(error).__name__})") from error


def _open(file: BufferedReader | BytesIO, name: str) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(f"{name} (more than {LARGEST} pixels, perhaps a decompression bomb)") from error
    except Exception as error:  # Pillow's decoders raise whatever their parsers do
        reason = "no image" if "cannot identify" in str(error) else error or type(error).__name__
        raise Unreadable(f"{name} ({reason})") from error
    require_decodable(image, name)
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


def peculiarities(image: Image.Image) -> list[str]:
    """Return the keys of ``PECULIARITIES`` that hold for an image; its header is enough."""
    found = [ALPHA] if image.has_transparency_data else []
    # The further pictures of a camera's MPO file are previews and depth, no pages.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        found.append(PAGES)
    return found


def on_white(image: Image.Image) -> Image.Image:
    """Put an image with transparency on a white ground; any other is returned as it is.

    What is under transparent pixels is arbitrary, mostly black: dropping the alpha channel would show that instead.
    """
    if not image.has_transparency_data:
        return image
    visible = image.convert("RGBA")
    ground = Image.new("RGB", visible.size, "white")
    ground.paste(visible, mask=visible)
    return ground


def shown(path: str | Path) -> str:
    """Return a path as text that can be printed and written as UTF-8, whatever bytes it is made of."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
