"""``bundled:NAME``: encoders inside the package, for a first run without a download."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from genaf_sdk.encoders.small_resnet import SmallResNet
from genaf_sdk.model import PixelEncoder

NAME = "simclr-cifar10"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def names() -> list[str]:
    """Return the names that ``load`` accepts."""
    return [NAME]


def build(name: str) -> SmallResNet:  # noqa: ARG001  # one architecture so far
    """Return the architecture without its weights."""
    return SmallResNet()


def load(name: str) -> PixelEncoder:
    """Return the encoder; its weights are stored in half precision and used in single precision."""
    backbone = build(name)
    weights = load_file(Path(__file__).with_name(f"{name}.safetensors"))
    backbone.load_state_dict(
        {key: value.float() if value.dtype == torch.half else value for key, value in weights.items()}
    )
    return PixelEncoder(backbone, source=f"bundled:{name}", mean=MEAN, std=STD, image_size=(32, 32)).eval()
