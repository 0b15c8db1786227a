"""Whether an encoder is what training and attacks take it for, found in seconds before either begins."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import torch

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.modes import inference_mode_of

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.models.encoder import PixelEncoder

logger = logging.getLogger(__name__)
IMAGES = 3
SAME = 1e-3
"""How far features that should be equal may differ, relative to the largest: kernels round by batch size."""
CLASSES = {1000: "ImageNet-1k", 21841: "ImageNet-21k", 21843: "ImageNet-21k"}


def require_sound(encoder: PixelEncoder, image_size: tuple[int, int]) -> None:
    """Refuse an encoder whose hardening or report would be wrong; the encoder itself is left as it was.

    Tried on random images: two passes and an image by itself give the same features, features depend on the image, a
    gradient reaches its pixels, training mode gives features of the same width. Features that look like probabilities
    or like the logits of a known data set are warned of.

    Args:
        encoder: The encoder.
        image_size: (H, W) of the images.

    Raises:
        EncoderError: One of these does not hold; the error says which, and what to do.
    """
    tried = copy.deepcopy(encoder)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(IMAGES, encoder.channels, *image_size, generator=generator).to(encoder.mean.device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with inference_mode_of(tried):
            features = _require_a_function(tried, images)
            _require_gradient(tried, images)
        _warn_of_outputs(features)
        _require_training_mode(tried, images, features.shape[1])


@torch.no_grad()
def _require_a_function(encoder: PixelEncoder, images: Tensor) -> Tensor:
    features: Tensor = encoder(images)
    if _differ(encoder(images), features):
        raise EncoderError(
            "The encoder gives other features for the same images in a second pass, in eval mode.",
            expected="features that depend on the image alone",
            remedy="dropout has to follow self.training, and no state may be kept from pass to pass",
        )
    if len(features) != len(images) or _differ(torch.cat([encoder(image[None]) for image in images]), features):
        raise EncoderError(
            "The encoder gives other features for an image by itself than for the same image in a batch.",
            expected="features that depend on the image alone, not on others in the batch",
            remedy="use batch normalization with running statistics, and reduce over no batch dimension",
        )
    if not _differ(features[1:], features[:1].expand_as(features[1:]), 1e-6):
        raise EncoderError(
            "The encoder gives the same features for every image.", expected="features that depend on the image"
        )
    return features


def _require_gradient(encoder: PixelEncoder, images: Tensor) -> None:
    pixels = images.clone().requires_grad_()
    gradient: Tensor | None = None
    reason = ""
    try:
        features = encoder(pixels)
        if features.requires_grad:
            weights = torch.rand_like(features)
            (gradient,) = torch.autograd.grad((features * weights).sum(), [pixels], allow_unused=True)
    except RuntimeError as error:
        reason = f": {error}"
    if gradient is None or not torch.isfinite(gradient).all() or not gradient.any():
        raise EncoderError(
            f"No gradient of the features reaches the pixels{reason}.",
            expected="an encoder that is differentiable; attacks in training and in the report follow its gradient",
            remedy="leave out detach(), no_grad(), numpy and rounding in its forward pass",
        )


@torch.no_grad()
def _require_training_mode(encoder: PixelEncoder, images: Tensor, width: int) -> None:
    encoder.train()
    try:
        found = int(encoder(images).shape[1])
    except (EncoderError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise EncoderError(
            f"The encoder works in eval mode and not in training mode: {error}",
            expected="the same output in both modes",
            remedy="wrap it in a module that returns the features alone, whatever self.training is",
        ) from error
    if found != width:
        raise EncoderError(
            f"The encoder gives {width} features in eval mode and {found} in training mode.",
            expected="the same number of features in both modes",
        )


def _warn_of_outputs(features: Tensor) -> None:
    width = features.shape[1]
    if bool((features >= 0).all()) and torch.allclose(features.sum(dim=1), features.new_ones(()), atol=1e-4):
        logger.warning(
            "The %d features of the encoder are probabilities: not negative, with a sum of 1. Leave out the softmax at "
            "its end: a head learns more from what goes into it.",
            width,
        )
    elif width in CLASSES:
        logger.warning(
            "The encoder gives %d features, as many as %s has classes. If they are the logits of a classifier, pass "
            "the model without its head.",
            width,
            CLASSES[width],
        )


def _differ(first: Tensor, second: Tensor, tolerance: float = SAME) -> bool:
    if first.shape != second.shape:
        return True
    scale = float(second.abs().max().clamp(min=1e-12))
    return float((first - second).abs().max()) > tolerance * scale
