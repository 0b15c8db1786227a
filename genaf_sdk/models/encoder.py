"""The encoder with its own normalisation: the only place that knows mean and standard deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.modes import inference_mode_of

if TYPE_CHECKING:
    from collections.abc import Sequence


class PixelEncoder(nn.Module):
    """An encoder together with its own normalisation: the only place that knows mean and standard deviation.

    Args:
        backbone: Maps normalised images (N, C, H, W) to features (N, D), or to maps (N, D, h, w), which are averaged.
        source: The id that ``load_encoder`` builds the same architecture from; empty for a module of the user's own.
        mean: Per-channel mean of the normalisation, in pixel units. Empty: the backbone takes pixels as they are.
        std: Per-channel standard deviation, likewise.
        image_size: (H, W) the encoder was made for, or None where it takes any.
        interpolation: How its training images were resized: bilinear, bicubic and so on.
        channels: How many channels an image has.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        source: str = "",
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        image_size: tuple[int, int] | None = None,
        interpolation: str = "bilinear",
        channels: int = 3,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or len(mean) not in (0, 1, channels):
            raise EncoderError(
                f"The normalisation has {len(mean)} means and {len(std)} standard deviations.",
                expected=f"none, one, or {channels} of each, one a channel",
            )
        if any(value <= 0 for value in std):
            raise EncoderError(f"A standard deviation is not positive: {tuple(std)}.", expected="positive numbers")
        self.backbone = backbone
        self.source, self.image_size, self.channels = source, image_size, channels
        self.interpolation = interpolation
        self.register_buffer("mean", torch.tensor(tuple(mean) or (0.0,)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std) or (1.0,)).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, C, H, W) in [0, 1] to features (N, D)."""
        return pooled(self.backbone((pixels - self.mean) / self.std))

    @torch.no_grad()
    def measure(self, image_size: tuple[int, int]) -> int:
        """Return the number of features D, found by a dry run on two grey images of (H, W) pixels.

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
                features = self(torch.full(shape, 0.5, device=self.mean.device))
            except EncoderError:
                raise
            except (RuntimeError, ValueError, TypeError, AssertionError) as error:
                raise EncoderError(
                    f"The encoder refuses images of shape {shape[1:]}: {error}.",
                    expected="a module that maps (N, C, H, W) to (N, D)",
                    remedy="resize the data to the encoder's image size, or pass image_size",
                ) from error
        if not torch.isfinite(features).all():
            raise EncoderError("The encoder gives NaN or infinity for a grey image.", expected="finite features")
        return int(features.shape[1])


def pooled(output: object) -> Tensor:
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
