"""load_encoder(): one grammar for encoder ids, ``SOURCE:NAME``, paths, and any ``nn.Module``.

A source is registered below, or comes from another package by an entry point of the group ``genaf_sdk.encoders``, whose
name is the prefix of its ids.
"""

from __future__ import annotations

import difflib
import unicodedata
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from genaf_sdk.encoders import bundled, checkpoint, hub, solo_learn, timm, torchvision
from genaf_sdk.encoders.own_module import wrap
from genaf_sdk.encoders.source import EncoderOptions, KnownEncoder, Source
from genaf_sdk.errors import EncoderError
from genaf_sdk.files import user_path
from genaf_sdk.models.classifier import Classifier
from genaf_sdk.models.encoder import PixelEncoder, numbers
from genaf_sdk.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCES: Registry[Source] = Registry("source of encoders", "genaf_sdk.encoders", EncoderError)
SPELLINGS = (
    "timm/NAME, torchvision:NAME, hf-hub:ORG/NAME, solo-learn:PATH, bundled:simclr-cifar10, the path of a checkpoint "
    f"({' '.join(checkpoint.SUFFIXES)}) or of a folder with config.json"
)


def load_encoder(
    encoder: str | Path | nn.Module,
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    architecture: str = "",
    trusted: bool = False,
) -> PixelEncoder:
    """Return a pre-trained encoder as a function of pixels in [0, 1].

    Normalization, size and interpolation are the encoder's own; they are asked for only where it states none.

    Args:
        encoder: An id (``timm/vit_small_patch14_dinov2.lvd142m``, ``torchvision:resnet18``, ``hf-hub:ORG/NAME``,
            ``solo-learn:PATH``), the path of a checkpoint or of a folder that holds a hardened, timm or transformers
            model, a ``PixelEncoder``, a ``HardenedModel`` (its encoder is taken), or any module that maps (N, C, H, W)
            to (N, D). A module that carries timm's ``pretrained_cfg`` is normalized by it; any other is taken to accept
            pixels in [0, 1] unless ``mean`` and ``std`` are given.
        mean: Per-channel mean of the normalization, in pixel units, in place of the encoder's own.
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
        ExportError: A bundle's file is missing, altered or not listed; ``HardenedModel.from_pretrained(...,
            check_files=False)`` loads it all the same, and is an encoder, too.
    """
    if isinstance(encoder, Classifier):
        encoder = encoder.encoder
    if isinstance(encoder, PixelEncoder):
        stated = {"mean": mean, "std": std, "image_size": image_size, "architecture": architecture or None}
        stated["channels"] = None if channels in (3, encoder.channels) else channels
        for name, value in stated.items():
            if value is not None:
                raise EncoderError(
                    f"{name} is {value!r}, and the encoder is a {type(encoder).__name__}, which states its own.",
                    expected="such an encoder by itself",
                    remedy=f"pass what is inside: load_encoder(encoder.backbone, {name}=...)",
                )
        return encoder
    if (mean is None) != (std is None):
        raise EncoderError("Only one of mean and std is given.", expected="both, or none of them")
    means = None if mean is None else numbers(mean, "mean")
    stds = None if std is None else numbers(std, "standard deviation")
    options = EncoderOptions(means, stds, image_size, channels, architecture, trusted)
    if isinstance(encoder, nn.Module):
        return wrap(encoder, options)
    if not isinstance(encoder, (str, Path)):
        raise EncoderError(
            f"The encoder is a {type(encoder).__name__}.",
            expected="an nn.Module or an id such as 'torchvision:resnet18'",
        )
    if any(unicodedata.category(character) == "Cc" for character in str(encoder)):
        raise EncoderError(f"The encoder {str(encoder)!r} holds control characters.", expected=SPELLINGS)
    source, name = _parse(str(encoder))
    return source.load(name, options)


def build_backbone(encoder_id: str) -> nn.Module:
    """Return the architecture that an id names, without its weights and without asking the network.

    Raises:
        EncoderError: The id is unknown, or a path, which names no architecture.
    """
    architecture = encoder_id.removeprefix("checkpoint:")
    source, separator, name = architecture.partition(":")
    if architecture.startswith("timm/"):
        source, separator, name = "timm", ":", architecture.removeprefix("timm/")
    if not separator or source == "checkpoint":
        raise EncoderError(
            f"The id {encoder_id[:200]!r} names no architecture.",
            expected=f"{', '.join(f'{name}:NAME' for name in SOURCES.items())}, or timm/NAME",
        )
    return SOURCES[source].build(name)


def own_source(encoder_id: str) -> str:
    """Return the id that a model was made from if it lies in this package; of a module without an id, nothing.

    A model may be anybody's, and so may the repository or file that it names: that is loaded where the user names it.

    Raises:
        EncoderError: It lies elsewhere.
    """
    if not encoder_id or encoder_id.startswith("bundled:"):
        return encoder_id
    name = encoder_id.partition(":{")[0][:200]
    raise EncoderError(
        f"The model says that it was made from {name!r}, which is not loaded because a model says so.",
        expected="the published encoder, for the attacks on it",
        remedy=f"if you trust it, pass --encoder {name}",
    )


def known_encoders() -> list[KnownEncoder]:
    """Return every id that this installation can name, with license and size where they are known."""
    return [entry for source in SOURCES.items().values() for entry in source.known()]


for _source in (
    Source("bundled", bundled.load, bundled.build, bundled.known),
    Source("timm", timm.load, timm.build, timm.known),
    Source("torchvision", torchvision.load, torchvision.build, torchvision.known),
    Source("hf-hub", partial(hub.load, build=build_backbone), hub.build, hub.known),
    Source("solo-learn", solo_learn.load, solo_learn.build, solo_learn.known),
    Source("checkpoint", partial(checkpoint.load, build=build_backbone), build_backbone, checkpoint.known),
):
    SOURCES.register(_source)


def _parse(encoder_id: str) -> tuple[Source, str]:
    """Return the source of an id and what the source calls the encoder."""
    prefix, separator, name = encoder_id.partition(":")
    if separator and prefix in SOURCES:
        return SOURCES[prefix], name
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
