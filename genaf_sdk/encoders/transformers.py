"""Vision models of transformers, and the image towers of its CLIP-like models; an optional extra."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genaf_sdk.encoders.repository import described, fetch
from genaf_sdk.errors import EncoderError
from genaf_sdk.files import read_json
from genaf_sdk.model import CONFIG_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from types import ModuleType

    from genaf_sdk.encoders.source import Wanted
    from genaf_sdk.model import PixelEncoder

PROCESSOR = "preprocessor_config.json"
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers, which transformers stores
NOISE = ("id2label", "label2id", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path")


class TransformersEncoder(nn.Module):
    """A vision model of transformers as a function from normalised images (N, C, H, W) to features (N, D).

    Args:
        model: The model.
        features: Which output is taken: ``image_embeds`` (CLIP's projection), ``pooler_output`` (a pooling that was
            trained), or ``first_token``, the [CLS] token, for models whose checkpoint has no pooling layer.
    """

    def __init__(self, model: nn.Module, features: str) -> None:
        super().__init__()
        self.model, self.features = model, features

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of normalised images."""
        output = self.model(pixel_values=images)
        if self.features == "first_token":
            tokens: Tensor = output.last_hidden_state
            return tokens[:, 0]
        features: Tensor = getattr(output, self.features)
        return features.flatten(1)


def build(description: dict[str, Any]) -> nn.Module:
    """Return the architecture that ``describe`` described, without weights.

    Raises:
        EncoderError: transformers is not installed, or does not know the model.
    """
    library = _transformers("this model")
    settings = dict(description.get("config", {}))
    try:
        config = library.AutoConfig.for_model(settings.pop("model_type"), **settings)
        return TransformersEncoder(_class(library, config)._from_config(config), description["features"])
    except (KeyError, ValueError, AttributeError) as error:
        raise EncoderError(
            f"transformers cannot build {description}: {error}.", remedy="update transformers"
        ) from error


def load(place: str, config_file: dict[str, Any], wanted: Wanted) -> PixelEncoder:
    """Return the image encoder of a folder or Hub repository; of a CLIP-like model, the image tower alone.

    Raises:
        EncoderError: transformers is not installed, the model has no image encoder, its weights are incomplete, or its
            normalisation is not stated and was not passed.
    """
    library = _transformers(place)
    local = Path(place).expanduser().is_dir()
    if wanted.channels != 3:
        raise EncoderError(f"{place!r} takes images of 3 channels, not {wanted.channels}.", remedy="use timm/NAME")
    try:
        config = library.AutoConfig.for_model(**{"model_type": config_file["model_type"], **config_file})
        config = getattr(config, "vision_config", config)
        where = place if local else str(fetch(place, CONFIG_FILE).parent)
        if not local:
            fetch(place, WEIGHTS_FILE)
        model, report = _class(library, config).from_pretrained(
            where, config=config, output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise EncoderError(
            f"transformers cannot load an image encoder from {place!r}: {error}.",
            expected="a vision model, or a CLIP-like model with an image tower, stored as model.safetensors",
        ) from error
    untrained = sorted(report["missing_keys"])
    lacking = [name for name in untrained if "pooler" not in name]
    if lacking:
        raise EncoderError(f"The weights of {place!r} lack {lacking[0]!r}.", remedy="download them again")
    features = _features(model, pooled=not untrained)
    description = {"library": "transformers", "features": features, "config": _short(config)}
    processor = _processor(place, local)
    return wanted.encoder(
        TransformersEncoder(model, features),
        source=described("local" if local else place, description),
        mean=_stated(processor, "image_mean", place, wanted.mean),
        std=_stated(processor, "image_std", place, wanted.std),
        image_size=_size(processor, config),
        interpolation=RESAMPLING.get(processor.get("resample", 2), "bilinear"),
    )


def _transformers(place: str) -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise EncoderError(
            f"{place!r} is a model of transformers, which is not installed.",
            remedy="pip install 'genaf-sdk[transformers]'",
        ) from error


def _class(library: ModuleType, config: Any) -> Any:
    """Return the class of the image encoder: the tower with its projection where there is one, else the bare model."""
    with_projection = type(config).__name__.replace("Config", "ModelWithProjection")
    return getattr(library, with_projection, None) or library.AutoModel._model_mapping[type(config)]


def _features(model: nn.Module, *, pooled: bool) -> str:
    """Find by a dry run which output the model has; an untrained pooling layer is passed over."""
    config: Any = model.config
    size = config.image_size if isinstance(getattr(config, "image_size", None), int) else 224
    with torch.no_grad():
        output = model.eval()(pixel_values=torch.zeros(1, 3, size, size))
    if getattr(output, "image_embeds", None) is not None:
        return "image_embeds"
    return "pooler_output" if pooled and getattr(output, "pooler_output", None) is not None else "first_token"


def _short(config: Any) -> dict[str, Any]:
    """Return what differs from the defaults of the model's type; together they make the config."""
    default = type(config)().to_dict()
    own = config.to_dict()
    changed = {key: value for key, value in own.items() if key not in NOISE and default.get(key) != value}
    return {"model_type": config.model_type, **changed}


def _processor(place: str, local: bool) -> dict[str, Any]:
    file = Path(place).expanduser() / PROCESSOR
    if not local:
        try:
            file = fetch(place, PROCESSOR)
        except EncoderError:  # some repositories have none; what it would say is then asked of the caller
            return {}
    return dict(read_json(file)) if file.is_file() else {}


def _stated(processor: dict[str, Any], key: str, place: str, given: Any) -> tuple[float, ...]:
    if given is None and key not in processor:
        raise EncoderError(
            f"{place!r} does not state its normalisation: {PROCESSOR} has no {key!r}.",
            remedy="pass load_encoder(..., mean=(...), std=(...))",
        )
    return tuple(processor.get(key, ()))


def _size(processor: dict[str, Any], config: Any) -> tuple[int, int] | None:
    size: Any = processor.get("crop_size") or processor.get("size") or getattr(config, "image_size", None)
    if isinstance(size, dict):
        side = size.get("shortest_edge")
        size = (size.get("height", side), size.get("width", side))
    if isinstance(size, int):
        size = (size, size)
    return (int(size[0]), int(size[1])) if size and all(size) else None
