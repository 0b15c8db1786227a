"""How a classifier lies on disk: ``config.json`` says what it is, ``model.safetensors`` holds its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from genaf_sdk._version import __version__
from genaf_sdk.errors import EncoderError, OutputError
from genaf_sdk.files import read_json, replacing, write_json
from genaf_sdk.models.classifier import Classifier
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import DEFAULT, build_head, head_choice
from genaf_sdk.models.modules import COMPILED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 1
Kind = TypeVar("Kind", bound=Classifier)


def save_classifier(model: Classifier, folder: Path) -> None:
    """Write a model's settings and weights into ``folder``, which is made where it is missing.

    Raises:
        OutputError: The folder cannot be written.
        EncoderError: The head is none that could be built again.
    """
    config = {
        "format": FORMAT,
        "genaf_sdk": __version__,
        "encoder": model.encoder.source,
        "channels": model.encoder.channels,
        "mean": model.encoder.mean.flatten().tolist(),
        "std": model.encoder.std.flatten().tolist(),
        "encoder_image_size": model.encoder.image_size,
        "interpolation": model.encoder.interpolation,
        "image_size": model.image_size,
        "head": head_choice(model.head),
        "class_names": model.class_names,
    }
    with replacing(folder / WEIGHTS_FILE) as temporary:
        save_file(distinct_weights(model), temporary, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, config)


def distinct_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name on the CPU; what has several names has the first, once.

    Names are those without ``torch.compile``.
    """
    state, found = model.state_dict(), {}
    for first, *_ in _names_of_one_tensor(state):
        value = state[first].detach().cpu()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        found[first.replace(COMPILED, "")] = value.contiguous() if whole else value.clone().contiguous()
    return found


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put what ``distinct_weights`` returned into a model of the same architecture, every name of a tensor included.

    Raises:
        ValueError: A weight is missing, is not one of the model's, or has another shape; or the model has one tensor
            where the weights have several of different values.
    """
    state = model.state_dict()
    own: dict[str, Tensor] = {}
    known: set[str] = set()
    for names in _names_of_one_tensor(state):
        given = [name for name in (name.replace(COMPILED, "") for name in names) if name in weights]
        known |= set(given)
        if not given:
            raise ValueError(f"the weight {names[0]!r} is missing")
        first = weights[given[0]]
        if first.shape != state[names[0]].shape:
            raise ValueError(
                f"{given[0]!r} has the shape {tuple(first.shape)} instead of {tuple(state[names[0]].shape)}"
            )
        if any(not torch.equal(weights[name], first) for name in given[1:]):
            raise ValueError(f"{', '.join(given)} differ, and are one tensor here")
        own |= dict.fromkeys(names, first)
    unknown = sorted(weights.keys() - known)
    if unknown:
        raise ValueError(f"there is no weight {unknown[0]!r}")
    model.load_state_dict(own)


def _names_of_one_tensor(state: dict[str, Tensor]) -> list[list[str]]:
    """Return the names of a state dict, those of the same memory together: tied weights, modules of two names."""
    groups: dict[object, list[str]] = {}
    for name, value in state.items():
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else name
        groups.setdefault(name if value.is_meta else place, []).append(name)
    return list(groups.values())


def load_classifier(
    folder: Path, kind: type[Kind], build: Callable[[str], nn.Module], *, backbone: nn.Module | None = None
) -> Kind:
    """Read what ``save_classifier`` wrote. Nothing in the folder is executed.

    Args:
        folder: Where ``config.json`` and ``model.safetensors`` are.
        kind: ``Classifier``, or a subclass with the same constructor.
        build: Returns the architecture that an encoder's id names, without its weights and without the network.
        backbone: The architecture, where the encoder was a module of the user's own rather than an id.

    Returns:
        The model in eval mode.

    Raises:
        OutputError: The folder does not hold a hardened model, or its files do not fit together.
        EncoderError: The architecture cannot be rebuilt without ``backbone``.
    """
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise OutputError(
            f"{folder / CONFIG_FILE} has format {config.get('format') if isinstance(config, dict) else None!r}.",
            expected=f"format {FORMAT}",
            remedy="update genaf-sdk if the model was made by a newer version",
        )
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{folder / WEIGHTS_FILE} cannot be read: {error}.") from error
    if backbone is None:
        if not config.get("encoder"):
            raise EncoderError(
                f"{folder} holds a hardened module of your own, whose architecture no id describes.",
                remedy="pass from_pretrained(..., backbone=the_module)",
            )
        backbone = build(str(config["encoder"]))
    try:
        return _assemble(kind, config, weights, backbone)
    except (RuntimeError, KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise OutputError(
            f"The files in {folder} do not fit together, or not the encoder {config.get('encoder')!r}: {error}"
        ) from error


def _assemble(kind: type[Kind], config: dict[str, Any], weights: dict[str, Tensor], backbone: nn.Module) -> Kind:
    if not config["class_names"]:
        raise ValueError("there are no class names")
    size = config["encoder_image_size"]
    encoder = PixelEncoder(
        backbone,
        source=config["encoder"],
        mean=config["mean"],
        std=config["std"],
        image_size=tuple(size) if size else None,
        interpolation=config.get("interpolation", "bilinear"),
        channels=config["channels"],
    )
    settings = {"name": DEFAULT, **(config.get("head") or {"feature_dim": weights["head.0.weight"].shape[1]})}
    head = build_head(classes=len(config["class_names"]), **settings)
    model = kind(encoder, head, class_names=config["class_names"], image_size=tuple(config["image_size"]))
    load_weights(model, weights)
    return model.eval()
