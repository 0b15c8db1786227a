"""A handful of real test images, as they are and under every universal perturbation, with what the models say."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from genaf_sdk.evaluation.classes import is_universal
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.report.scores import Score

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.report.robustness import RobustnessReport

MOST_IMAGES, SMALL, LARGEST = 6, 48, 96
"""Up to so many images; four where they are larger than ``SMALL`` pixels; shown at no more than ``LARGEST`` pixels."""
MOST_BYTES = 1_600_000
"""Of encoded pictures in one report; what does not fit is left out and counted."""


def gallery_images(
    pixels: Tensor,
    labels: Tensor,
    classify: dict[str, Callable[[Tensor], Tensor]],
    perturbations: dict[str, Perturbation],
) -> dict[str, Any]:
    """Choose test images and record what each model says of them, clean and perturbed.

    The rule of choice looks at no prediction: the first image of each class, in the order given, then the next ones.

    Args:
        pixels: Test images (N, C, H, W) in [0, 1], in the order of the evaluation.
        labels: Their classes (N,).
        classify: Model name -> function from pixels to classes (N,).
        perturbations: What was crafted, by key.

    Returns:
        ``images``: PNG in base64 and label of each; ``predictions``: perturbation key (empty for clean) -> model ->
        classes. No images where they have neither one nor three channels.
    """
    if pixels.shape[1] not in (1, 3):
        return {"images": [], "predictions": {}}
    most = MOST_IMAGES if max(pixels.shape[2:]) <= SMALL else 4
    firsts: dict[int, int] = {}
    for index, label in enumerate(labels.tolist()):
        firsts.setdefault(label, index)
    order = list(firsts.values()) + [i for i in range(len(labels)) if i not in set(firsts.values())]
    shown = sorted(order[:most])
    images = pixels[shown]
    inputs = {"": images} | {key: perturbation.apply(images) for key, perturbation in perturbations.items()}
    return {
        "images": [
            {"png": base64.b64encode(png(_reduced(image))).decode(), "label": int(labels[index])}
            for image, index in zip(images, shown, strict=True)
        ],
        "predictions": {
            key: {model: function(batch).tolist() for model, function in classify.items()}
            for key, batch in inputs.items()
        },
    }


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


def draw_gallery(report: RobustnessReport) -> Gallery:
    """Perturb the stored images with the stored perturbations: the clean row, then the hardened model's rows."""
    stored = report.sections.get("gallery") or {}
    if not stored.get("images"):
        return Gallery([], 0)
    labels = [int(image["label"]) for image in stored["images"]]
    images = torch.stack([_read_png(base64.b64decode(image["png"])) for image in stored["images"]])
    scores = {s.perturbation: s for s in report.scores if s.model == "hardened" and is_universal(s)}
    rows = [GalleryRow(None, "", 0.0, _pictures(images, labels, stored["predictions"][""]))]
    spent, omitted = 0, 0
    for key, score in scores.items():
        perturbation = report.perturbations.get(key)
        if perturbation is None or key not in stored["predictions"]:
            continue
        small = _resized(perturbation, images.shape[2], images.shape[3])
        row = GalleryRow(
            score,
            data_uri(amplified(small)),
            0.0 if small.mask is not None else 0.5 / small.budget,
            _pictures(small.apply(images), labels, stored["predictions"][key]),
        )
        size = len(row.amplified) + sum(len(picture.uri) for picture in row.pictures)
        if spent + size > MOST_BYTES:
            omitted += 1
            continue
        spent += size
        rows.append(row)
    return Gallery(rows, omitted)


def amplified(perturbation: Perturbation) -> Tensor:
    """Return the perturbation as a picture (C, H, W): mid-grey is no change, black and white are the whole budget.

    A patch is shown as it is, on mid-grey.
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


def _reduced(image: Tensor) -> Tensor:
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
    return Perturbation(values, perturbation.threat, mask, perturbation.key)


def _read_png(content: bytes) -> Tensor:
    with Image.open(io.BytesIO(content)) as image:
        data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        channels = len(image.getbands())
        return data.view(image.height, image.width, channels).permute(2, 0, 1).float() / 255
