"""Bare paths: ``.ckpt``, ``.pth``, ``.pt``, ``.bin``, ``.safetensors``, and ``.pt2`` programs of torch.export.

``checkpoint:ARCHITECTURE`` is what a model hardened from such a file stores: the architecture, not the path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genaf_sdk.encoders import solo_learn
from genaf_sdk.encoders.program import load_program
from genaf_sdk.encoders.source import KnownEncoder
from genaf_sdk.encoders.state_dict import COUNTER, read_checkpoint, strip_prefix, weights_of
from genaf_sdk.errors import EncoderError
from genaf_sdk.files import user_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from genaf_sdk.encoders.source import EncoderOptions
    from genaf_sdk.models.encoder import PixelEncoder

SUFFIXES = (".ckpt", ".pth", ".pt", ".bin", ".safetensors", ".pt2")
PREFIXES = ("", "backbone.", "encoder.", "model.", "visual.", "model.backbone.", "encoder_q.", "module.encoder_q.")


def known() -> list[KnownEncoder]:
    """Return the spelling."""
    return [KnownEncoder(f"PATH ({' '.join(SUFFIXES)})", "checkpoint", weights=False)]


def load(name: str, options: EncoderOptions, *, build: Callable[[str], nn.Module]) -> PixelEncoder:
    """Return the encoder in the file at path ``name``; ``build`` makes an architecture of its id.

    Raises:
        EncoderError: No such file, or a file that does not say enough; the error lists the arguments to pass.
    """
    path = user_path(name)
    if not path.is_file():
        raise EncoderError(
            f"There is no checkpoint {name!r}.",
            expected=f"the path of a file ({', '.join(SUFFIXES)})",
            remedy="correct the path"
            if path.suffix in SUFFIXES
            else "checkpoint:ARCHITECTURE names an architecture without weights; give the file it came from",
        )
    if path.suffix == ".pt2":
        return load_program(path, options)
    weights = weights_of(read_checkpoint(path), path)
    if not options.architecture:
        if solo_learn.is_solo_learn(weights):
            return solo_learn.from_weights(weights, path, options)
        raise _says_too_little(path, options, list(weights))
    if options.mean is None or options.std is None or options.image_size is None:
        raise _says_too_little(path, options, list(weights))
    backbone = build(options.architecture)
    backbone.load_state_dict(_fitting(weights, backbone, path, options.architecture))
    return options.encoder(backbone, source=f"checkpoint:{options.architecture}")


def _fitting(weights: dict[str, Tensor], backbone: nn.Module, path: Path, architecture: str) -> dict[str, Tensor]:
    """Return the backbone's weights, without a prefix and without what it does not have: a classifier, a projector.

    Raises:
        EncoderError: A weight of the backbone is missing or has another shape.
    """
    needed = backbone.state_dict()
    own = max((strip_prefix(weights, prefix) for prefix in PREFIXES), key=lambda part: len(part.keys() & needed.keys()))
    counters = {name: value for name, value in needed.items() if name.endswith(COUNTER) and name not in own}
    own |= counters
    for name, value in needed.items():
        if name not in own or own[name].shape != value.shape:
            given = f"of shape {tuple(own[name].shape)}" if name in own else "missing"
            raise EncoderError(
                f"The checkpoint {str(path)!r} does not fit {architecture!r}: {name!r} is {given}.",
                expected=f"shape {tuple(value.shape)}",
                remedy="pass the architecture= that the weights were made with",
            )
    return {name: own[name] for name in needed}


def _says_too_little(path: Path, options: EncoderOptions, names: list[str]) -> EncoderError:
    arguments = {
        "architecture='timm/resnet18'": options.architecture,
        "mean=(...)": options.mean,
        "std=(...)": options.std,
        "image_size=(H, W)": options.image_size,
    }
    missing = ", ".join(spelling for spelling, value in arguments.items() if not value)
    return EncoderError(
        f"The checkpoint {str(path)!r} holds weights ({', '.join(names[:3])}, ...) and does not say what for.",
        expected="a checkpoint of solo-learn, or one whose architecture and normalization are passed",
        remedy=f"load_encoder({str(path)!r}, {missing}); for the shell, a folder whose config.json says it",
    )
