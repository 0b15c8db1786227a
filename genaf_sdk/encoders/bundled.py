"""``bundled:NAME``: encoders inside the package, for a first run without a download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from genaf_sdk.encoders.small_resnet import SmallResNet
from genaf_sdk.encoders.source import KnownEncoder
from genaf_sdk.errors import EncoderError

if TYPE_CHECKING:
    from genaf_sdk.encoders.source import EncoderOptions
    from genaf_sdk.models.encoder import PixelEncoder

NAME, SIZE = "simclr-cifar10", (32, 32)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def known() -> list[KnownEncoder]:
    """Return the encoders of this folder."""
    parameters = sum(parameter.numel() for parameter in SmallResNet().parameters())
    return [KnownEncoder(f"bundled:{NAME}", "bundled", "Apache-2.0", parameters, image_size=SIZE)]


def build(name: str) -> SmallResNet:
    """Return the architecture without its weights.

    Raises:
        EncoderError: There is no such encoder.
    """
    if name != NAME:
        raise EncoderError(f"No encoder {name!r} comes with the package.", expected=f"bundled:{NAME}")
    return SmallResNet()


def load(name: str, options: EncoderOptions) -> PixelEncoder:
    """Return the encoder; its weights are stored in half precision and used in single precision.

    Raises:
        EncoderError: There is none of that name, or images are to have another number of channels than 3.
    """
    backbone = build(name)
    weights = load_file(Path(__file__).with_name(f"{name}.safetensors"))
    backbone.load_state_dict(
        {key: value.float() if value.dtype == torch.half else value for key, value in weights.items()}
    )
    if options.channels != 3:
        raise EncoderError(
            f"bundled:{name} takes images of 3 channels, not {options.channels}.", remedy="use timm/NAME"
        )
    return options.encoder(backbone, source=f"bundled:{name}", mean=MEAN, std=STD, image_size=SIZE)
