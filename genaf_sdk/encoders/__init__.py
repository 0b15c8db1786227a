"""load_encoder(): one grammar for encoder ids, ``SOURCE:NAME``, and any ``nn.Module``.

A source is one file with a class that has two methods; it is added to ``SOURCES`` below.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from torch import nn

from genaf_sdk.encoders import bundled, torchvision
from genaf_sdk.errors import EncoderError
from genaf_sdk.model import HardenedModel, PixelEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

SOURCES: dict[str, ModuleType] = {"bundled": bundled, "torchvision": torchvision}


def load_encoder(
    encoder: str | nn.Module,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
) -> PixelEncoder:
    """Return a pre-trained encoder as a function of pixels in [0, 1].

    Args:
        encoder: An id (``bundled:simclr-cifar10``, ``torchvision:resnet18``), a ``PixelEncoder``, a ``HardenedModel``
            (its encoder is taken), or any module that maps (N, C, H, W) to (N, D). A module of your own is taken to
            accept pixels in [0, 1], its normalisation inside, unless ``mean`` and ``std`` are given.
        mean: Per-channel mean of the module's normalisation, in pixel units.
        std: Per-channel standard deviation, likewise.
        image_size: (H, W) that the data is resized to; by default the encoder's own, else the data's.
        channels: Channels of an image.

    Returns:
        The encoder. The module given is used as it is, not copied; ``harden`` copies it before it trains.

    Raises:
        EncoderError: The id is unknown (those that would work are listed), or ``encoder`` is no module.
    """
    if isinstance(encoder, HardenedModel):
        encoder = encoder.encoder
    if isinstance(encoder, PixelEncoder):
        return encoder
    if isinstance(encoder, nn.Module):
        return PixelEncoder(encoder, mean=mean or (), std=std or (), image_size=image_size, channels=channels)
    if not isinstance(encoder, str):
        raise EncoderError(
            f"The encoder is a {type(encoder).__name__}.",
            expected="an nn.Module or an id such as 'torchvision:resnet18'",
        )
    source, name = _parse(encoder)
    loaded: PixelEncoder = source.load(name)
    if image_size is not None:
        loaded.image_size = image_size
    return loaded


def build_backbone(encoder_id: str) -> nn.Module:
    """Return the architecture that an id names, without downloading its weights.

    Raises:
        EncoderError: The id is unknown.
    """
    source, name = _parse(encoder_id)
    backbone: nn.Module = source.build(name)
    return backbone


def known_encoders() -> list[str]:
    """Return every id that this installation can name."""
    return [f"{source}:{name}" for source, module in SOURCES.items() for name in module.names()]


def _parse(encoder_id: str) -> tuple[ModuleType, str]:
    source, _, name = encoder_id.partition(":")
    known = known_encoders()
    if source in SOURCES and name.split(":")[0] in SOURCES[source].names():
        return SOURCES[source], name
    near = difflib.get_close_matches(encoder_id, known, n=3, cutoff=0.5)
    spellings = ", ".join(near or [*known[:3], "torchvision:NAME"])
    raise EncoderError(
        f"There is no encoder {encoder_id!r}.",
        expected=f"an nn.Module or an id SOURCE:NAME with SOURCE one of {', '.join(SOURCES)}",
        remedy=f"try {spellings}; `genaf encoders` lists all",
    )
