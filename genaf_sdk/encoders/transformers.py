"""Vision models of transformers, and the image towers of its CLIP-like models; an optional extra."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genaf_sdk.encoders.described import VISION_TYPES, transformers_settings
from genaf_sdk.encoders.processor import PROCESSOR, read_processor
from genaf_sdk.errors import EncoderError
from genaf_sdk.models.storage import CONFIG_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from types import ModuleType

    from genaf_sdk.encoders.repository import Repository
    from genaf_sdk.encoders.source import EncoderOptions
    from genaf_sdk.models.encoder import PixelEncoder

INTERPOLATE = "interpolate_pos_encoding"
FEATURES = ("image_embeds", "pooler_output", "first_token")
ADAPTER = "adapter_config.json"
SHOWN = 120
NOISE = ("id2label", "label2id", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path")


class TransformersEncoder(nn.Module):
    """A vision model of transformers as a function from normalized images (N, C, H, W) to features (N, D).

    Args:
        model: The model.
        features: Which output is taken: ``image_embeds`` (CLIP's projection), ``pooler_output`` (a pooling that was
            trained), or ``first_token``, the [CLS] token, for models whose checkpoint has no pooling layer.
        options: Further arguments of the model's forward pass.
    """

    def __init__(self, model: nn.Module, features: str, options: dict[str, bool]) -> None:
        super().__init__()
        self.model, self.features, self.options = model, features, options

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of normalized images."""
        output = self.model(pixel_values=images, **self.options)
        if self.features == "first_token":
            tokens: Tensor = output.last_hidden_state
            return tokens[:, 0]
        features: Tensor = getattr(output, self.features)
        return features.flatten(1)


def describes(config: dict[str, Any]) -> bool:
    """Whether a ``config.json`` is of a model of transformers."""
    return "model_type" in config


def rebuild(description: dict[str, Any]) -> nn.Module:
    """Return the architecture that ``load_repository`` described, without weights.

    Raises:
        EncoderError: transformers is not installed, or does not know the model.
    """
    library = _transformers("this model")
    features, options = description.get("features"), description.get("options", {})
    if features not in FEATURES or not isinstance(options, dict) or not set(options) <= {INTERPOLATE}:
        raise EncoderError(
            f"The description asks transformers for {str(features)[:SHOWN]!r} with {str(options)[:SHOWN]}.",
            expected=f"one of {', '.join(FEATURES)}, with {INTERPOLATE} or nothing",
        )
    try:
        config = _config(library, description.get("config"), "a hardened model")
        model = _class(library, config)._from_config(config)
        return TransformersEncoder(model, features, {name: bool(value) for name, value in options.items()})
    except EncoderError:
        raise
    except Exception as error:  # the models check their settings in ways of their own
        raise EncoderError(
            f"transformers cannot build {str(description)[:SHOWN]}: {error}.", remedy="update transformers"
        ) from error


def load_repository(repository: Repository, config_file: dict[str, Any], options: EncoderOptions) -> PixelEncoder:
    """Return the image encoder of a folder or Hub repository; of a CLIP-like model, the image tower alone.

    Raises:
        EncoderError: transformers is not installed, the model has no image encoder, its weights are incomplete, or its
            normalization is not stated and was not passed.
    """
    name = repository.name
    library = _transformers(name)
    if options.channels != 3:
        raise EncoderError(f"{name!r} takes images of 3 channels, not {options.channels}.", remedy="use timm/NAME")
    config = _config(library, config_file, name)
    folder = repository.files(CONFIG_FILE, WEIGHTS_FILE)
    if (folder / ADAPTER).exists():
        raise EncoderError(
            f"{name!r} holds an adapter of another model.", expected="a whole model", remedy=f"remove {ADAPTER}"
        )
    try:
        model, report = _class(library, config).from_pretrained(
            str(folder), config=config, output_loading_info=True, use_safetensors=True, local_files_only=True
        )
    except Exception as error:  # the library raises whatever a foreign file makes it raise
        raise EncoderError(
            f"transformers cannot load an image encoder from {name!r}: {error}.",
            expected="a vision model, or a CLIP-like model with an image tower, stored as model.safetensors",
        ) from error
    untrained = sorted(report["missing_keys"])
    lacking = [key for key in untrained if "pooler" not in key]
    if lacking:
        raise EncoderError(f"The weights of {name!r} lack {lacking[0]!r}.", remedy="download them again")
    features = _features(model, pooled=not untrained)
    processor = repository.read_if_there(PROCESSOR)
    preprocessing = read_processor(processor, config, name, options)
    arguments = _arguments(model, resized=options.image_size not in (None, preprocessing.image_size))
    description = {"library": "transformers", "features": features, "options": arguments, "config": _short(config)}
    return options.encoder(
        TransformersEncoder(model, features, arguments),
        source=repository.described(description),
        mean=preprocessing.mean,
        std=preprocessing.std,
        image_size=preprocessing.image_size,
        interpolation=preprocessing.interpolation,
    )


def _transformers(place: str) -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise EncoderError(
            f"{place!r} is a model of transformers, which is not installed.",
            remedy="pip install 'genaf-sdk[transformers]'",
        ) from error


def _config(library: ModuleType, settings: Any, owner: str) -> Any:
    """Return the configuration of the image encoder; of a CLIP-like model, of its image tower.

    Raises:
        EncoderError: The type is none of ``VISION_TYPES``, or a setting is not passed on.
    """
    settings = settings if isinstance(settings, dict) else {}
    model_type = settings.get("model_type")
    if not isinstance(model_type, str) or model_type not in library.CONFIG_MAPPING:
        raise EncoderError(f"{owner!r} is of the type {str(model_type)[:SHOWN]!r}.", expected="a type of transformers")
    kind = library.CONFIG_MAPPING[model_type]
    tower = getattr(kind, "sub_configs", {}).get("vision_config")
    if tower is not None and model_type not in VISION_TYPES:
        kind, settings = tower, settings.get("vision_config") or {}
    if kind.model_type not in VISION_TYPES:
        raise EncoderError(
            f"{owner!r} is of the type {model_type!r}, whose encoder does not stand by itself.",
            expected=f"one of {', '.join(sorted(VISION_TYPES))}, or a model with such a tower",
            remedy="build the module yourself and pass it",
        )
    known = kind().to_dict()
    try:
        return kind(**transformers_settings(settings, known, owner))
    except EncoderError:
        raise
    except Exception as error:  # configurations check themselves in ways of their own
        raise EncoderError(f"The configuration of {owner!r} cannot be used: {error}.") from error


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


def _arguments(model: nn.Module, *, resized: bool) -> dict[str, bool]:
    """Return what lets the model take images of another size than its own: position embeddings are interpolated."""
    known = inspect.signature(model.forward).parameters
    return {INTERPOLATE: True} if resized and INTERPOLATE in known else {}


def _short(config: Any) -> dict[str, Any]:
    """Return what differs from the defaults of the model's type; together they make the config."""
    default = type(config)().to_dict()
    own = config.to_dict()
    changed = {key: value for key, value in own.items() if key not in NOISE and default.get(key) != value}
    return {"model_type": config.model_type, **changed}
