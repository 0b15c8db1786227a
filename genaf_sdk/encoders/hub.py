"""``hf-hub:ORG/NAME``, ``ORG/NAME`` and folders: whatever a ``config.json`` describes.

Three kinds are told apart by their config: models that this package hardened, timm's, and those of transformers.
``hf-hub:ORG/NAME:DESCRIPTION``, as a hardened model stores it, holds what rebuilds the architecture offline.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HfHubHTTPError

from genaf_sdk.encoders import transformers
from genaf_sdk.encoders.repository import described, fetch
from genaf_sdk.encoders.source import KnownEncoder
from genaf_sdk.errors import EncoderError, OutputError
from genaf_sdk.files import read_json
from genaf_sdk.model import CONFIG_FILE, WEIGHTS_FILE, HardenedModel

if TYPE_CHECKING:
    from torch import nn

    from genaf_sdk.encoders.source import Wanted
    from genaf_sdk.model import PixelEncoder


def known() -> list[KnownEncoder]:
    """Return the spellings."""
    return [
        KnownEncoder("hf-hub:ORG/NAME", "hub", weights=False),
        KnownEncoder("FOLDER of config.json and model.safetensors", "hub", weights=False),
    ]


def build(name: str) -> nn.Module:
    """Return the architecture that the description after the name holds, without asking the network.

    Raises:
        EncoderError: There is no description.
    """
    _, _, text = name.partition(":")
    description = _read_description(text, name)
    if description.get("library") == "timm":
        return _build_timm(description)
    if description.get("library") == "transformers":
        return transformers.build(description)
    raise EncoderError(
        f"The id 'hf-hub:{name}' does not describe an architecture.",
        expected="an id that a hardened model stored, with a description after the name",
        remedy="pass from_pretrained(..., backbone=load_encoder(id).backbone)",
    )


def load(name: str, wanted: Wanted) -> PixelEncoder:
    """Return the encoder of a Hub repository (downloaded once) or of a folder that holds its files.

    Raises:
        EncoderError: It cannot be downloaded, or its config.json is of none of the three kinds.
    """
    place = name if Path(name).expanduser().is_dir() else name.partition(":")[0]
    config = _config(place)
    if "genaf_sdk" in config:
        return _hardened(place, wanted)
    if "architecture" in config or "pretrained_cfg" in config:
        return _load_timm(place, config, wanted)
    if "model_type" in config:
        return transformers.load(place, config, wanted)
    raise EncoderError(
        f"The {CONFIG_FILE} of {place!r} describes no encoder; its keys are {', '.join(list(config)[:6])}.",
        expected="a model of timm ('architecture'), of transformers ('model_type'), or hardened by genaf-sdk",
        remedy="pass the module itself",
    )


def _config(place: str) -> dict[str, Any]:
    folder = Path(place).expanduser()
    file = folder / CONFIG_FILE if folder.is_dir() else fetch(place, CONFIG_FILE)
    try:
        config = read_json(file)
    except OutputError as error:
        raise EncoderError(
            f"{place!r} has no readable {CONFIG_FILE}: {error}",
            expected=f"a folder of {CONFIG_FILE} and {WEIGHTS_FILE}, or the path of a checkpoint file",
        ) from error
    if not isinstance(config, dict):
        raise EncoderError(f"The {CONFIG_FILE} of {place!r} is no JSON object.", expected="a JSON object")
    return config


def _hardened(place: str, wanted: Wanted) -> PixelEncoder:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        fetch(place, WEIGHTS_FILE)
        folder = fetch(place, CONFIG_FILE).parent
    encoder = HardenedModel.from_pretrained(folder).encoder
    if wanted.image_size is not None:
        encoder.image_size = wanted.image_size
    return encoder


def _load_timm(place: str, config: dict[str, Any], wanted: Wanted) -> PixelEncoder:
    import timm

    local = Path(place).expanduser().is_dir()
    own = config.get("pretrained_cfg") or config
    stored = {key: value for key, value in (config.get("model_args") or {}).items() if key != "num_classes"}
    asked: dict[str, Any] = {"in_chans": wanted.channels} if wanted.channels != 3 else {}
    size = stored.get("img_size", own["input_size"][1:])
    own_size = (size, size) if isinstance(size, int) else tuple(size)
    if wanted.image_size not in (None, own_size) and own.get("fixed_input_size"):
        asked["img_size"] = wanted.image_size
    description = {"library": "timm", "name": config["architecture"], "arguments": {**stored, **asked}}
    try:
        model: nn.Module = timm.create_model(
            f"{'local-dir' if local else 'hf-hub'}:{place}", pretrained=True, num_classes=0, **asked
        )
    except (OSError, HfHubHTTPError, RuntimeError, TypeError, ValueError) as error:
        raise EncoderError(
            f"timm cannot load {place!r}: {error}.",
            expected=f"a repository or folder of {CONFIG_FILE} and {WEIGHTS_FILE} as timm writes them",
            remedy=f"run `hf download {place}` on a machine with network, and pass the folder",
        ) from error
    return wanted.encoder(
        model,
        source=described("local" if local else place, description),
        mean=own["mean"],
        std=own["std"],
        image_size=own_size,
        interpolation=own.get("interpolation", "bilinear"),
    )


def _build_timm(description: dict[str, Any]) -> nn.Module:
    import timm

    arguments = description.get("arguments", {})
    try:
        model: nn.Module = timm.create_model(description["name"], pretrained=False, num_classes=0, **arguments)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise EncoderError(
            f"timm cannot build {description}: {error}.",
            remedy="update timm to the version that the model was made with",
        ) from error
    return model


def _read_description(text: str, name: str) -> dict[str, Any]:
    try:
        description = json.loads(text or "{}")
    except ValueError as error:
        raise EncoderError(
            f"The id 'hf-hub:{name}' is damaged: {error}.", expected="a JSON object after the name"
        ) from error
    return description if isinstance(description, dict) else {}
