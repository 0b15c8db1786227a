"""load_encoder(): one grammar for encoder ids, ``SOURCE:NAME``, paths, and any ``nn.Module``.

A source is one file with three functions, ``load``, ``build`` and ``known``; it is added to ``SOURCES`` below, or comes
from another package by an entry point of the group ``genaf_sdk.encoders`` whose name is the id's prefix.
"""

from __future__ import annotations

import difflib
import unicodedata
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn

from genaf_sdk.encoders import bundled, checkpoint, hub, solo_learn, timm, torchvision
from genaf_sdk.encoders.source import KnownEncoder, Source, Wanted
from genaf_sdk.errors import EncoderError
from genaf_sdk.files import user_path
from genaf_sdk.models.classifier import HardenedModel
from genaf_sdk.models.encoder import PixelEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SOURCES", "KnownEncoder", "build_backbone", "known_encoders", "load_encoder"]

SOURCES: dict[str, Source] = {
    name: cast("Source", module)
    for name, module in {
        "bundled": bundled,
        "timm": timm,
        "torchvision": torchvision,
        "hf-hub": hub,
        "solo-learn": solo_learn,
        "checkpoint": checkpoint,
    }.items()
}
ENTRY_POINTS = "genaf_sdk.encoders"
SPELLINGS = (
    "timm/NAME, torchvision:NAME, hf-hub:ORG/NAME, solo-learn:PATH, bundled:simclr-cifar10, the path of a checkpoint "
    f"({' '.join(checkpoint.SUFFIXES)}) or of a folder with config.json"
)


def load_encoder(
    encoder: str | Path | nn.Module,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    architecture: str = "",
    trusted: bool = False,
) -> PixelEncoder:
    """Return a pre-trained encoder as a function of pixels in [0, 1].

    Normalisation, size and interpolation are the encoder's own; they are asked for only where it states none.

    Args:
        encoder: An id (``timm/vit_small_patch14_dinov2.lvd142m``, ``torchvision:resnet18``, ``hf-hub:ORG/NAME``,
            ``solo-learn:PATH``), the path of a checkpoint or of a folder that holds a hardened, timm or transformers
            model, a ``PixelEncoder``, a ``HardenedModel`` (its encoder is taken), or any module that maps (N, C, H, W)
            to (N, D). A module that carries timm's ``pretrained_cfg`` is normalised by it; any other is taken to accept
            pixels in [0, 1] unless ``mean`` and ``std`` are given.
        mean: Per-channel mean of the normalisation, in pixel units, in place of the encoder's own.
        std: Per-channel standard deviation, likewise.
        image_size: (H, W) that the data is resized to; by default the encoder's own, else the data's.
        channels: Channels of an image.
        architecture: Id of the architecture that a bare checkpoint's weights belong to, such as ``timm/resnet18``.
        trusted: Whether a ``.pt2`` program, which is code, may be run.

    Returns:
        The encoder. A module given is used as it is, not copied; ``harden`` copies it before it trains.

    Raises:
        EncoderError: The id is unknown (those that would work are listed), ``encoder`` is no module, something cannot
            be downloaded (what to fetch, and where to put it, is said), or a checkpoint does not say enough.
    """
    if isinstance(encoder, HardenedModel):
        encoder = encoder.encoder
    if isinstance(encoder, PixelEncoder):
        return encoder
    wanted = Wanted(mean, std, image_size, channels, architecture, trusted)
    if (mean is None) != (std is None):
        raise EncoderError("Only one of mean and std is given.", expected="both, or none of them")
    if isinstance(encoder, nn.Module):
        return _wrap(encoder, wanted)
    if not isinstance(encoder, (str, Path)):
        raise EncoderError(
            f"The encoder is a {type(encoder).__name__}.",
            expected="an nn.Module or an id such as 'torchvision:resnet18'",
        )
    if any(unicodedata.category(character) == "Cc" for character in str(encoder)):
        raise EncoderError(f"The encoder {str(encoder)!r} holds control characters.", expected=SPELLINGS)
    source, name = _parse(str(encoder))
    return source.load(name, wanted)


def build_backbone(encoder_id: str) -> nn.Module:
    """Return the architecture that an id names, without its weights and without asking the network.

    Raises:
        EncoderError: The id is unknown, or a plain path, which names no architecture.
    """
    source, name = _parse(encoder_id)
    return source.build(name)


def known_encoders() -> list[KnownEncoder]:
    """Return every id that this installation can name, with licence and size where they are known."""
    return [entry for source in _sources().values() for entry in source.known()]


def _sources() -> dict[str, Source]:
    """Return every source by its prefix, those of other packages included."""
    others = {entry.name: entry.load() for entry in entry_points(group=ENTRY_POINTS) if entry.name not in SOURCES}
    return SOURCES | others


def _wrap(module: nn.Module, wanted: Wanted) -> PixelEncoder:
    """Put a module of the caller's own into the wrapper that knows mean and std; its mode is left as it is."""
    training = module.training
    encoder = wanted.encoder(module, source="", **timm.module_configuration(module))
    module.train(training)
    return encoder


def _parse(encoder_id: str) -> tuple[Source, str]:
    """Return the source of an id and what the source calls the encoder."""
    for prefix, source in _sources().items():
        if encoder_id.startswith(f"{prefix}:"):
            return source, encoder_id[len(prefix) + 1 :]
    if encoder_id.startswith("timm/"):
        return SOURCES["timm"], encoder_id.removeprefix("timm/")
    path = user_path(encoder_id)
    if path.is_dir():
        return SOURCES["hf-hub"], encoder_id
    if path.is_file() or path.suffix in checkpoint.SUFFIXES:
        return SOURCES["checkpoint"], encoder_id
    if encoder_id.count("/") == 1 and not encoder_id.startswith((".", "/", "~")) and ":" not in encoder_id:
        return SOURCES["hf-hub"], encoder_id
    names = {entry.id for entry in known_encoders()}
    bare = {name.replace("timm/", "").partition(":")[2] or name.replace("timm/", ""): name for name in sorted(names)}
    near = [bare[name] for name in difflib.get_close_matches(encoder_id, bare, n=3, cutoff=0.5)]
    raise EncoderError(
        f"There is no encoder {encoder_id!r}.",
        expected=f"an nn.Module, or {SPELLINGS}",
        remedy=f"try {', '.join(near) or 'torchvision:resnet18'}; `genaf encoders` lists all",
    )
