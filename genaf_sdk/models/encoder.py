"""The encoder with its own normalization: the only place that knows mean and standard deviation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genaf_sdk.errors import EncoderError
from genaf_sdk.inputs.images import laid_out_as
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.models.modules import copied_state

if TYPE_CHECKING:
    from collections.abc import Sequence

MEAN_RANGE = (-1.0, 2.0)
"""Where a mean can lie, in units of the pixel range; one of 123.7 is in bytes."""
LEAST_STD, LARGEST_STD = 1e-6, 4.0
VIEW = "view size is not compatible"
"""What torch says of a ``view`` of maps whose channels lie side by side."""
FLATTEN = "put flatten(1) or reshape in the place of view in its forward pass: the channels of a pixel lie side by side"


class PixelEncoder(nn.Module):
    """An encoder together with its own normalization: the only place that knows mean and standard deviation.

    Args:
        backbone: Maps normalized images (N, C, H, W) to features (N, D), or to maps (N, D, h, w), which are averaged.
        source: The id that ``load_encoder`` builds the same architecture from; empty for a module of the user's own.
        mean: Per-channel mean of the normalization, in pixel units. Empty: the backbone takes pixels as they are.
        std: Per-channel standard deviation, likewise.
        image_size: (H, W) the encoder was made for, or None where it takes any.
        interpolation: How its training images were resized: bilinear, bicubic and so on.
        channels: How many channels an image has.

    Raises:
        EncoderError: Mean and standard deviation are not those of pixels in [0, 1], or not of as many channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        source: str = "",
        mean: float | Sequence[float] = (),
        std: float | Sequence[float] = (),
        image_size: tuple[int, int] | None = None,
        interpolation: str = "bilinear",
        channels: int = 3,
    ) -> None:
        super().__init__()
        means, stds = numbers(mean, "mean"), numbers(std, "standard deviation")
        _require_normalization(means, stds, channels)
        self.backbone = backbone
        self.source, self.image_size, self.channels = source, image_size, channels
        self.interpolation = interpolation
        device = next((parameter.device for parameter in backbone.parameters()), None)  # which may be a GPU
        for name, values in (("mean", means or (0.0,)), ("std", stds or (1.0,))):
            self.register_buffer(name, torch.tensor(values, device=device).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, C, H, W) in [0, 1] to features (N, D)."""
        return as_feature_vectors(self._output(pixels))

    def _output(self, pixels: Tensor) -> object:
        mean, std = (laid_out_as(pixels, values) for values in (self.mean, self.std))
        return self.backbone((pixels - mean) / std)

    def __deepcopy__(self, memo: dict[int, Any]) -> PixelEncoder:
        """Return a copy; what cannot be copied is named (``EncoderError``)."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copied_state(self, memo))  # type: ignore[no-untyped-call]  # torch states no types here
        return new

    @torch.no_grad()
    def feature_dim(self, image_size: tuple[int, int]) -> int:
        """Return the number of features D, found by a dry run on two gray images of (H, W) pixels.

        Raises:
            EncoderError: The encoder refuses such images, gives no (N, D) features or has NaN in its weights.
        """
        for name, parameter in self.named_parameters():
            if not torch.isfinite(parameter).all():
                raise EncoderError(
                    f"The weight {name!r} of the encoder holds NaN or infinity.", expected="finite weights"
                )
        shape = (2, self.channels, *image_size)
        with inference_mode_of(self):
            try:
                output = self._output(torch.full(shape, 0.5, device=self.mean.device))
                self._require_channels_first(output)
                features = as_feature_vectors(output)
            except EncoderError:
                raise
            except Exception as error:  # an encoder raises whatever its author chose
                raise EncoderError(
                    f"The encoder refuses images of shape {shape[1:]}: {str(error) or type(error).__name__}.",
                    expected="a module that maps (N, C, H, W) to (N, D)",
                    remedy=FLATTEN
                    if VIEW in str(error)
                    else "resize the data to the encoder's image size, or pass image_size",
                ) from error
        if features.dtype != torch.float32:
            raise EncoderError(
                f"The encoder gives features of type {features.dtype}.",
                expected="features in float32, as its images are",
                remedy="convert the module with .float(), or its output with .float()",
            )
        if not torch.isfinite(features).all():
            raise EncoderError("The encoder gives NaN or infinity for a gray image.", expected="finite features")
        return int(features.shape[1])

    def _require_channels_first(self, output: object) -> None:
        """Refuse maps (N, h, w, D), as models of timm announce them: rows of theirs would be taken for features."""
        if isinstance(output, Tensor) and output.ndim == 4 and getattr(self.backbone, "output_fmt", "") == "NHWC":
            raise EncoderError(
                f"The encoder gives maps of shape {tuple(output.shape)}, whose channels come last.",
                expected="features (N, D) or maps (N, D, h, w)",
                remedy="build it with timm's own pooling (global_pool='avg'), or wrap it in a module that averages",
            )


def as_feature_vectors(output: object) -> Tensor:
    """Reduce what an encoder returns to features (N, D).

    Understood: (N, D); maps (N, D, h, w), averaged; output objects with ``pooler_output`` or ``image_embeds``; a tuple,
    list or dict of exactly one of these.

    Raises:
        EncoderError: Anything else, named with its type and shape.
    """
    for attribute in ("image_embeds", "pooler_output"):
        value = getattr(output, attribute, None)
        if isinstance(value, Tensor):
            output = value
            break
    if isinstance(output, dict) and len(output) == 1:
        output = next(iter(output.values()))
    if isinstance(output, (tuple, list)) and len(output) == 1:
        output = output[0]
    if isinstance(output, Tensor) and output.ndim == 4:
        return output.mean(dim=(2, 3))
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    given = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise EncoderError(
        f"The encoder's output is {given}.",
        expected="features (N, D) or maps (N, D, h, w)",
        remedy="wrap the encoder in a module that returns one such tensor",
    )


def numbers(values: object, what: str) -> tuple[float, ...]:
    """Return one number, or a sequence, array or tensor of them, as a tuple of floats.

    Raises:
        EncoderError: It is anything else, or a number is not finite.
    """
    try:
        found = tuple(map(float, (values,) if isinstance(values, (int, float)) else values))  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError) as error:
        raise EncoderError(f"A {what} is {values!r}.", expected="numbers, one a channel") from error
    if not all(math.isfinite(value) for value in found):
        raise EncoderError(f"A {what} is not finite: {found}.", expected="finite numbers")
    return found


def _require_normalization(means: tuple[float, ...], stds: tuple[float, ...], channels: int) -> None:
    if len(means) != len(stds) or len(means) not in (0, 1, channels):
        raise EncoderError(
            f"The normalization has {len(means)} means and {len(stds)} standard deviations.",
            expected=f"none, one, or {channels} of each, one a channel",
        )
    if any(value < LEAST_STD for value in stds):
        raise EncoderError(f"A standard deviation is not positive: {stds}.", expected=f"at least {LEAST_STD:g}")
    low, high = MEAN_RANGE
    if any(not low <= value <= high for value in means) or any(value > LARGEST_STD for value in stds):
        raise EncoderError(
            f"Mean {means} and standard deviation {stds} are not those of pixels in [0, 1].",
            expected="values in units of the pixel range, such as mean (0.485, 0.456, 0.406)",
            remedy="divide values for bytes (0 to 255) by 255",
        )
