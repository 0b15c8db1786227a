"""Whether an encoder is what training and attacks take it for, found in seconds before either begins."""

from __future__ import annotations

import copy
import random
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.models.modules import unregistered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from genaf_sdk.models.encoder import PixelEncoder

RANDOM = 3
IMAGES = (*["a random image"] * RANDOM, "a black image", "a white image")
"""What an encoder is tried on."""
SAME = 1e-3
"""How far features that should be equal may differ, relative to the largest: kernels round by batch size."""
PASSES = 12
"""How often an encoder that draws random numbers is asked: a layer may be dropped in one pass of ten."""
CLASSES = {1000: "ImageNet-1k", 21841: "ImageNet-21k", 21843: "ImageNet-21k"}


class Doubt(NamedTuple):
    """Something about an encoder that may surprise, though nothing is wrong with it for certain."""

    text: str
    remedy: str


def require_sound(encoder: PixelEncoder, image_size: tuple[int, int]) -> list[Doubt]:
    """Refuse an encoder whose hardening or report would be wrong; the encoder itself is left as it was.

    Tried on random, black and white images: features are finite; two passes and an image by itself give the same ones;
    they depend on the image; a gradient reaches its pixels; training mode gives as many of them; all weights that they
    depend on are parameters or buffers.

    Args:
        encoder: The encoder.
        image_size: (H, W) of the images.

    Returns:
        What may surprise: features that look like a classifier's outputs, numbers drawn or buffers changed in eval
        mode, gradients that are not finite for a plain image, tensors that are neither parameters nor buffers.

    Raises:
        EncoderError: One of these does not hold; the error says which, and what to do.
    """
    tried = copy.deepcopy(encoder)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(len(IMAGES), encoder.channels, *image_size, generator=generator).to(encoder.mean.device)
    images[RANDOM], images[RANDOM + 1] = 0, 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with inference_mode_of(tried):
            features, doubts = _require_a_function(tried, images)
            doubts += _require_gradient(tried, images)
            doubts += _require_own_weights(tried, images)
        _require_training_mode(tried, images, features.shape[1])
    return [*doubts, *_doubts_of_outputs(features)]


@torch.no_grad()
def _require_a_function(encoder: PixelEncoder, images: Tensor) -> tuple[Tensor, list[Doubt]]:
    drawn, buffers = _random_states(), {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    features = _features(encoder, images, "a batch of images")
    draws = _random_states() != drawn
    for image, row in zip(IMAGES, features, strict=True) if len(features) == len(images) else ():
        if not torch.isfinite(row).all():
            raise EncoderError(
                f"The encoder gives NaN or infinity for {image}.",
                expected="finite features for every image",
                remedy="add a small constant to what it divides by, and to what it takes the root or logarithm of",
            )
    for _ in range(PASSES if draws else 1):
        if _differ(_features(encoder, images, "a second pass"), features):
            raise EncoderError(
                "The encoder gives other features for the same images in a second pass, in eval mode"
                f"{', as it draws random numbers' if draws else ''}.",
                expected="features that depend on the image alone",
                remedy="dropout has to follow self.training, and no state may be kept from pass to pass",
            )
    alone = [_features(encoder, image[None], "an image by itself") for image in images]
    if len(features) != len(images) or _differ(torch.cat(alone), features):
        raise EncoderError(
            "The encoder gives other features for an image by itself than for the same image in a batch.",
            expected="features that depend on the image alone, not on others in the batch",
            remedy="use batch normalization with running statistics, reduce over no batch dimension, and have no "
            "Python branch depend on values, which no ONNX export can follow",
        )
    if not _differ(features[1:], features[:1].expand_as(features[1:]), 1e-6):
        raise EncoderError(
            "The encoder gives the same features for every image.", expected="features that depend on the image"
        )
    doubts = []
    if draws:
        doubts.append(
            Doubt(
                f"The encoder draws random numbers in eval mode; its features were the same in {PASSES} passes all the "
                "same.",
                "let dropout and noise follow self.training",
            )
        )
    changed = [name for name, buffer in encoder.named_buffers() if not torch.equal(buffer, buffers.get(name, buffer))]
    if changed:
        doubts.append(
            Doubt(
                f"A pass in eval mode changes the buffer {changed[0].removeprefix('backbone.')!r}: the model that is "
                "measured is not quite the one that is saved.",
                "change buffers in training mode alone",
            )
        )
    return features, doubts


def _features(encoder: PixelEncoder, images: Tensor, what: str) -> Tensor:
    try:
        features: Tensor = encoder(images)
    except Exception as error:  # an encoder raises whatever its author chose
        raise EncoderError(
            f"The encoder fails for {what}: {_said(error)}.",
            expected="a module that maps images (N, C, H, W) to features (N, D), for any N",
        ) from error
    return features


def _require_gradient(encoder: PixelEncoder, images: Tensor) -> list[Doubt]:
    pixels = images.clone().requires_grad_()
    gradient: Tensor | None = None
    reason = ""
    try:
        features = encoder(pixels)
        if features.requires_grad:
            weights = torch.rand_like(features)
            (gradient,) = torch.autograd.grad((features * weights).sum(), [pixels], allow_unused=True)
    except Exception as error:  # an encoder raises whatever its author chose
        reason = f": {_said(error)}"
    if gradient is None or not gradient[:RANDOM].any() or not torch.isfinite(gradient[:RANDOM]).all():
        found = "is NaN or infinite" if gradient is not None and gradient[:RANDOM].any() else "reaches the pixels"
        raise EncoderError(
            f"{'The' if found.startswith('is') else 'No'} gradient of the features {found}{reason}.",
            expected="an encoder that is differentiable; attacks in training and in the report follow its gradient",
            remedy="leave out detach(), no_grad(), numpy and rounding in its forward pass",
        )
    plain = [image for image, slope in zip(IMAGES, gradient, strict=True) if not torch.isfinite(slope).all()]
    return [
        Doubt(
            f"The gradient of the features is NaN or infinite for {image}: a training step on such an image is lost, "
            "and an attack on it fails.",
            "add a small constant to what the encoder takes the root or logarithm of",
        )
        for image in plain
    ]


@torch.no_grad()
def _require_own_weights(encoder: PixelEncoder, images: Tensor) -> list[Doubt]:
    """Move every tensor that the module holds outside of parameters and buffers, and see whether features move."""
    doubts = []
    for name, tensors in unregistered(encoder.backbone):
        before = encoder(images)
        for tensor in tensors:
            with suppress(RuntimeError):  # an expanded view, which nobody can write to
                tensor.copy_(tensor * 1.5 + 0.1)
        if not _differ(encoder(images), before, 1e-6):
            continue
        if any(tensor.requires_grad for tensor in tensors):
            raise EncoderError(
                f"The features depend on weights in {name!r} that torch does not know of: they would be neither "
                "trained nor saved.",
                expected="weights that are parameters of the module",
                remedy="put layers into nn.ModuleList or nn.ModuleDict, and weights into nn.Parameter",
            )
        if not encoder.source:  # an architecture with an id makes its constants anew
            doubts.append(
                Doubt(
                    f"The features depend on {name!r}, a tensor that is neither parameter nor buffer: it is not saved, "
                    "and stays on its device.",
                    f"register it as a buffer: self.register_buffer({name.rpartition('.')[2]!r}, ...)",
                )
            )
    return doubts


@torch.no_grad()
def _require_training_mode(encoder: PixelEncoder, images: Tensor, width: int) -> None:
    encoder.train()
    try:
        found = int(encoder(images).shape[1])
    except Exception as error:  # an encoder raises whatever its author chose
        raise EncoderError(
            f"The encoder works in eval mode and not in training mode: {_said(error)}.",
            expected="the same output in both modes",
            remedy="wrap it in a module that returns the features alone, whatever self.training is",
        ) from error
    if found != width:
        raise EncoderError(
            f"The encoder gives {width} features in eval mode and {found} in training mode.",
            expected="the same number of features in both modes",
        )


def _doubts_of_outputs(features: Tensor) -> Iterator[Doubt]:
    width = features.shape[1]
    if bool((features >= 0).all()) and torch.allclose(features.sum(dim=1), features.new_ones(()), atol=1e-4):
        yield Doubt(
            f"The {width} features of the encoder are probabilities: not negative, with a sum of 1.",
            "leave out the softmax at its end: a head learns more from what goes into it",
        )
    elif width in CLASSES:
        yield Doubt(
            f"The encoder gives {width} features, as many as {CLASSES[width]} has classes.",
            "if they are the logits of a classifier, pass the model without its head",
        )


def _said(error: Exception) -> str:
    """Return an error of somebody else's code in one line."""
    if isinstance(error, EncoderError):
        return error.problem.rstrip(".")
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")


def _random_states() -> tuple[bytes | str, ...]:
    """Return what changes when anybody draws from torch, numpy or Python."""
    cuda = [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    numpy = repr(np.random.get_state())  # noqa: NPY002  # the generator that all programs share
    return (torch.get_rng_state().numpy().tobytes(), *cuda, numpy, repr(random.getstate()))


def _differ(first: Tensor, second: Tensor, tolerance: float = SAME) -> bool:
    if first.shape != second.shape:
        return True
    scale = float(second.abs().max().clamp(min=1e-12))
    return not float((first - second).abs().max()) <= tolerance * scale
