"""Images: float pixels in [0, 1], channels first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from genaf_sdk.errors import AttackError, DataError
from genaf_sdk.inputs.space import InputSpace, Module

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.errors import GenafError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
"""How images may be resized, in Pillow's words; ``data.decoding`` says which filter serves each."""
TOLERANCE = 1e-6
"""How far pixels may lie outside [0, 1]: resizing and augmentation round."""


@dataclass(frozen=True)
class ImageSpace(InputSpace):
    """Images of one size; ``shape`` is (C, H, W)."""

    def check(self, inputs: Tensor, owner: str, error: type[GenafError] = AttackError) -> None:
        """Refuse anything but a batch of float images (N, C, H, W) with pixels in [0, 1].

        Raises:
            GenafError: ``error``, with the shape, the type or the range that was given.
        """
        given: Any = inputs
        if not isinstance(given, torch.Tensor):
            raise error(f"{owner} was given a {type(given).__name__}.", expected="a float tensor (N, C, H, W)")
        if inputs.ndim != 4 or len(self.shape) != 3 or inputs.numel() == 0 or not inputs.is_floating_point():
            raise error(
                f"{owner} was given images of shape {tuple(inputs.shape)} and type {inputs.dtype}.",
                expected="float (N, C, H, W), none of these 0",
            )
        if tuple(inputs.shape[1:]) != self.shape:
            raise error(
                f"{owner} was given images of shape {tuple(inputs.shape[1:])}.", expected=f"{self.shape}, as elsewhere"
            )
        check_range(inputs, owner, error)

    def clip(self, inputs: Tensor) -> Tensor:
        """Return the images with pixels brought into [0, 1]."""
        return inputs.clamp(0, 1)

    def arranged(self, inputs: Tensor) -> Tensor:
        """Return images (N, C, H, W) with the channels of a pixel side by side, which convolutions are faster on."""
        return inputs.contiguous(memory_format=torch.channels_last)

    def placed(self, module: Module) -> Module:
        """Return the module, its weights in the layout of ``arranged``; in place."""
        placed: Module = module.to(memory_format=torch.channels_last)
        return placed


def image_space(images: Tensor) -> ImageSpace:
    """Return the space of images (N, C, H, W)."""
    return ImageSpace(tuple(images.shape[1:]))


def input_space(model: object, inputs: Tensor) -> InputSpace:
    """Return the space that a model states as ``model.space``; where it states none, that of images like ``inputs``."""
    stated = getattr(model, "space", None)
    return stated if isinstance(stated, InputSpace) else image_space(inputs)


def laid_out_as(pixels: Tensor, values: Tensor) -> Tensor:
    """Return values (1, C, 1, 1), for images whose channels lie side by side on a processor repeated over an image.

    The same to the bit in 0.6 of the time: a vector instruction then need not look for the channel of every number.
    """
    layout = torch.channels_last
    by_channel = values.numel() > 1 and pixels.ndim == 4 and not pixels.is_contiguous()
    if by_channel and pixels.device.type == "cpu" and pixels.is_contiguous(memory_format=layout):
        return values.expand(1, *pixels.shape[1:]).contiguous(memory_format=layout)
    return values


def check_range(pixels: Tensor, owner: str, error: type[GenafError] = AttackError) -> None:
    """Refuse float pixels of any shape that do not lie in [0, 1].

    Raises:
        GenafError: ``error``, with the range that was given.
    """
    low, high = (float(value) for value in torch.aminmax(pixels))
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise error(
            f"{owner} was given pixels from {low:g} to {high:g}.",
            expected="pixels in [0, 1]",
            remedy="leave normalization to the model (load_encoder(module, mean=..., std=...)) and remove Normalize "
            "from the data's transform",
        )


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
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        if not math.isfinite(low + high):
            raise DataError(
                "The pixels hold NaN or infinity.",
                expected="pixels in [0, 1]",
                remedy="look for a division by zero in the data's transform",
            )
        in_bytes = low >= 0 and 2 < high <= 255
        raise DataError(
            f"The pixels reach from {low:g} to {high:g}.",
            expected="pixels in [0, 1]" + (", or bytes as uint8" if in_bytes else ""),
            remedy="divide them by 255, or give them as uint8"
            if in_bytes
            else "remove Normalize from the data's transform: normalization belongs inside the encoder "
            "(load_encoder(module, mean=..., std=...))",
        )
    return pixels
