"""How a classifier lies on disk: ``config.json`` says what it is, ``model.safetensors`` holds its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from genaf_sdk._version import __version__
from genaf_sdk.errors import EncoderError, OutputError
from genaf_sdk.files import read_json, replacing, write_json
from genaf_sdk.models.classifier import Classifier
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import DEFAULT, build_head, head_choice

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
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with replacing(folder / WEIGHTS_FILE) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, config)


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
    model.load_state_dict(weights)
    return model.eval()
