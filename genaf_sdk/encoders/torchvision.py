"""``torchvision:NAME[:WEIGHTS]``: torchvision's classifiers without their last layer."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from torch import nn

from genaf_sdk.encoders.source import KnownEncoder
from genaf_sdk.errors import EncoderError

if TYPE_CHECKING:
    from genaf_sdk.encoders.source import EncoderOptions
    from genaf_sdk.models.encoder import PixelEncoder


def known() -> list[KnownEncoder]:
    """Return torchvision's classifiers, with the size that its default weights state."""
    from torchvision import models

    weights = {name: models.get_model_weights(name).DEFAULT for name in models.list_models(module=models)}
    return [
        KnownEncoder(
            f"torchvision:{name}", "torchvision", "", default.meta["num_params"], image_size=_size(default.transforms())
        )
        for name, default in weights.items()
    ]


def build(name: str) -> nn.Module:
    """Return the architecture without its weights and without its last linear layer.

    Raises:
        EncoderError: torchvision has no such classifier, or it does not end in a linear layer.
    """
    model, _, requested = name.partition(":")
    _require_known(model)
    backbone = _create(model, None, **({} if requested == "random" else _arguments(model, requested)))
    return _without_classifier(backbone, name)


def load(name: str, options: EncoderOptions) -> PixelEncoder:
    """Return the encoder with the weights named after the colon, or torchvision's default ones (downloaded once).

    ``random`` as the weights' name gives an untrained encoder, for tests.

    Raises:
        EncoderError: The weights are unknown or cannot be downloaded, or the images do not have three channels.
    """
    model, _, requested = name.partition(":")
    if options.channels != 3:
        raise EncoderError(
            f"torchvision:{model} takes images of 3 channels, not {options.channels}.",
            remedy="use timm/NAME, whose models take any number",
        )
    _require_known(model)
    weights = _weights(model, requested)
    try:
        backbone = _create(model, None if requested == "random" else weights)
    except OSError as error:
        raise EncoderError(
            f"The weights of torchvision:{model} cannot be downloaded: {error}.",
            remedy=f"fetch {weights.url} on another machine and put it in torch's hub folder, checkpoints/",
        ) from error
    recipe = weights.transforms()
    return options.encoder(
        _without_classifier(backbone, name),
        source=f"torchvision:{name}",
        mean=recipe.mean,
        std=recipe.std,
        image_size=_size(recipe),
        interpolation=recipe.interpolation.value,
    )


def _arguments(model: str, requested: str) -> dict[str, Any]:
    """Return what torchvision itself builds an architecture with for some weights: their image size, their scaling.

    Raises:
        EncoderError: The weights are unknown.
    """
    weights = _weights(model, requested)
    if model.startswith("vit_"):
        return {"image_size": weights.meta["min_size"][0]}
    return {"transform_input": True} if model in ("googlenet", "inception_v3") else {}


def _weights(model: str, requested: str) -> Any:
    """Return torchvision's description of weights; of the default ones where none are asked for, or random ones.

    Raises:
        EncoderError: They are unknown.
    """
    from torchvision import models

    choices = models.get_model_weights(model)
    if requested in ("", "random"):
        return choices.DEFAULT
    if requested not in choices.__members__:
        raise EncoderError(
            f"torchvision's {model!r} has no weights {requested!r}.",
            expected=f"one of {', '.join(choices.__members__)}, random",
        )
    return choices[requested]


def _size(recipe: Any) -> tuple[int, int]:
    side = int(recipe.crop_size[0])
    return side, side


def _require_known(model: str) -> None:
    from torchvision import models

    known = models.list_models(module=models)
    if model not in known:
        near = difflib.get_close_matches(model, known, n=3) or known[:3]
        raise EncoderError(
            f"torchvision has no classifier {model!r}.",
            expected=f"one such as {', '.join(f'torchvision:{name}' for name in near)}",
            remedy="`genaf encoders torchvision:` lists all",
        )


def _create(model: str, weights: object, **arguments: Any) -> nn.Module:
    import warnings

    from torchvision import models

    with warnings.catch_warnings():
        # GoogLeNet and Inception warn that a future version draws their random weights otherwise.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torchvision")
        backbone: nn.Module = models.get_model(model, weights=weights, **arguments)
    for auxiliary in ("aux1", "aux2", "AuxLogits"):  # extra classifiers of GoogLeNet and Inception, for training them
        if hasattr(backbone, auxiliary):
            setattr(backbone, auxiliary, None)
    if hasattr(backbone, "aux_logits"):
        setattr(backbone, "aux_logits", False)  # noqa: B010  # mypy takes attributes of modules for modules
    return backbone


def _without_classifier(backbone: nn.Module, name: str) -> nn.Module:
    """Put the identity in place of the linear layer that was registered last: the classifier of ImageNet."""
    linear = [path for path, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise EncoderError(f"torchvision:{name} ends in no linear layer.", remedy="pass the module itself")
    parent, _, attribute = linear[-1].rpartition(".")
    setattr(backbone.get_submodule(parent), attribute, nn.Identity())
    return backbone
