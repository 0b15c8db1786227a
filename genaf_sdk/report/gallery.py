"""A handful of real test images, as they are and under every universal perturbation, with what the models say."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from genaf_sdk.errors import OutputError
from genaf_sdk.report.scores import Score, is_universal

if TYPE_CHECKING:
    from genaf_sdk.inputs.perturbation import Perturbation
    from genaf_sdk.report.data import Report

LARGEST = 96
"""Pictures have no side of more pixels."""
PNG = b"\x89PNG\r\n\x1a\n"
MOST_BYTES = 1_600_000
"""Of encoded pictures in one report; what does not fit is left out and counted."""


@dataclass(frozen=True)
class Picture:
    """One perturbed test image: a data URI, the true class, and what the models say, by name."""

    uri: str
    label: int
    predictions: dict[str, int]


@dataclass(frozen=True)
class GalleryRow:
    """One universal perturbation: its row of the report (None: clean images), itself amplified, and the pictures."""

    score: Score | None
    amplified: str
    factor: float
    pictures: list[Picture]


@dataclass(frozen=True)
class Gallery:
    """What there is to show; ``omitted`` perturbations did not fit into ``MOST_BYTES``."""

    rows: list[GalleryRow]
    omitted: int


def draw_gallery(report: Report) -> Gallery:
    """Perturb the stored images with the stored perturbations: the clean row, then the hardened model's rows.

    Raises:
        OutputError: A stored picture is no PNG of at most ``LARGEST`` pixels a side, or of another kind than the data.
    """
    stored = report.gallery
    if stored is None or not stored.images:
        return Gallery([], 0)
    labels = [image.label for image in stored.images]
    images = stored_images(report)
    scores = {s.perturbation: s for s in report.rows() if is_universal(s)}
    rows = [GalleryRow(None, "", 0.0, _pictures(images, labels, stored.predictions[""]))]
    spent, omitted = 0, 0
    for key, score in scores.items():
        perturbation = report.perturbations.get(key)
        if perturbation is None or key not in stored.predictions:
            continue
        small = _resized(perturbation, images.shape[2], images.shape[3])
        row = GalleryRow(
            score,
            data_uri(amplified(small)),
            0.0 if small.mask is not None else 0.5 / small.budget,
            _pictures(small.apply(images), labels, stored.predictions[key]),
        )
        size = len(row.amplified) + sum(len(picture.uri) for picture in row.pictures)
        if spent + size > MOST_BYTES:
            omitted += 1
            continue
        spent += size
        rows.append(row)
    return Gallery(rows, omitted)


def without_pictures(report: Report) -> None:
    """Take the test images out of a report; everything else stays."""
    report.gallery = None


def stored_picture(image: Tensor) -> str:
    """Return an image (1 or 3, H, W) in [0, 1], reduced to ``LARGEST`` pixels, as PNG in base64."""
    return base64.b64encode(png(reduced(image))).decode()


def amplified(perturbation: Perturbation) -> Tensor:
    """Return the perturbation as a picture (C, H, W): mid-gray is no change, black and white are the whole budget.

    A patch is shown as it is, on mid-gray.
    """
    if perturbation.mask is not None:
        return perturbation.values * perturbation.mask + 0.5 * (1 - perturbation.mask)
    return 0.5 + perturbation.values / (2 * perturbation.budget)


def png(image: Tensor) -> bytes:
    """Encode an image (1 or 3, H, W) in [0, 1] as PNG, eight bits a channel."""
    values = image.clamp(0, 1).mul(255).round().to(torch.uint8)
    array = values[0].numpy() if len(values) == 1 else values.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(image: Tensor) -> str:
    """Return an image (1 or 3, H, W) in [0, 1] as the URI of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def _pictures(images: Tensor, labels: list[int], predictions: dict[str, list[int]]) -> list[Picture]:
    return [
        Picture(data_uri(image), label, {model: int(classes[index]) for model, classes in predictions.items()})
        for index, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def reduced(image: Tensor) -> Tensor:
    """Return an image (C, H, W) at the size at which it is shown: no side has more than ``LARGEST`` pixels."""
    longest = max(image.shape[1:])
    if longest <= LARGEST:
        return image
    size = [max(1, round(side * LARGEST / longest)) for side in image.shape[1:]]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def _resized(perturbation: Perturbation, height: int, width: int) -> Perturbation:
    """Reduce by leaving pixels out: an average would make the perturbation look weaker than it is."""
    size = (height, width)
    values = F.interpolate(perturbation.values[None], size, mode="nearest")[0]
    mask = None if perturbation.mask is None else F.interpolate(perturbation.mask[None], size, mode="nearest")[0]
    return replace(perturbation, values=values, mask=mask)


def stored_images(report: Report) -> Tensor:
    """Return the pictures of a report, (M, C, H, W) in [0, 1].

    Raises:
        OutputError: One is no PNG of at most ``LARGEST`` pixels a side, or of another kind than the data.
    """
    stored = report.gallery.images if report.gallery is not None else []
    channels, height, width = report.data.image_shape
    shrink = min(1.0, LARGEST / max(height, width))
    size = tuple(max(1, round(side * shrink)) for side in (height, width))
    images = [_read_png(image.png, f"gallery.images[{index}]") for index, image in enumerate(stored)]
    for index, image in enumerate(images):
        if image.shape != (channels, *size):
            raise OutputError(
                f"gallery.images[{index}] has the shape {tuple(image.shape)}.",
                expected=f"{(channels, *size)}, as the data",
            )
    return torch.stack(images)


def _read_png(text: str, where: str) -> Tensor:
    """Decode a PNG of eight bits a channel; its size is looked at before its pixels are."""
    try:
        content = base64.b64decode(text, validate=True)
        if not content.startswith(PNG):
            raise OutputError(f"{where} is no PNG.", expected="a PNG in base64")
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        if max(width, height) > LARGEST:  # before Pillow, whose own limit is another error
            raise _too_large(where, f"{width} x {height} pixels")
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if max(image.size) > LARGEST or image.mode not in ("L", "RGB"):
                raise _too_large(where, f"{image.width} x {image.height} pixels, mode {image.mode}")
            data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            pixels = data.view(image.height, image.width, len(image.getbands()))
            return pixels.permute(2, 0, 1).float() / 255
    except (binascii.Error, OSError, SyntaxError, ValueError) as error:
        raise OutputError(f"{where} cannot be read: {error!s:.100}.", expected="a PNG in base64") from error


def _too_large(where: str, what: str) -> OutputError:
    return OutputError(
        f"{where} is a picture of {what}.", expected=f"a gray or RGB picture of at most {LARGEST} x {LARGEST}"
    )
