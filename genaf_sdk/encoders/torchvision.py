"""``torchvision:NAME[:WEIGHTS]``: torchvision's classifiers without their last layer."""

from __future__ import annotations

from torch import nn

from genaf_sdk.errors import EncoderError
from genaf_sdk.model import PixelEncoder


def names() -> list[str]:
    """Return the names that ``load`` accepts."""
    from torchvision import models

    listed: list[str] = models.list_models(module=models)
    return listed


def build(name: str) -> nn.Module:
    """Return the architecture without its weights and without its last linear layer."""
    from torchvision import models

    backbone: nn.Module = models.get_model(name.split(":")[0], weights=None)
    _remove_last_linear(backbone, name)
    return backbone


def load(name: str) -> PixelEncoder:
    """Return the encoder with the weights named after the colon, or torchvision's default ones (downloaded once).

    ``random`` as the weights' name gives an untrained encoder, for tests.

    Raises:
        EncoderError: The weights are unknown or cannot be downloaded.
    """
    from torchvision import models

    model, _, requested = name.partition(":")
    choices = models.get_model_weights(model)
    if requested == "random":
        weights = choices.DEFAULT
        backbone: nn.Module = models.get_model(model, weights=None)
    else:
        if requested and requested not in choices.__members__:
            raise EncoderError(
                f"torchvision's {model!r} has no weights {requested!r}.",
                expected=f"one of {', '.join(choices.__members__)}, random",
            )
        weights = choices[requested] if requested else choices.DEFAULT
        try:
            backbone = models.get_model(model, weights=weights)
        except OSError as error:
            raise EncoderError(
                f"The weights of torchvision:{model} cannot be downloaded: {error}.",
                remedy=f"fetch {weights.url} on another machine and put it in torch's hub folder, checkpoints/",
            ) from error
    _remove_last_linear(backbone, name)
    recipe = weights.transforms()
    size = recipe.crop_size[0]
    return PixelEncoder(
        backbone, source=f"torchvision:{name}", mean=recipe.mean, std=recipe.std, image_size=(size, size)
    ).eval()


def _remove_last_linear(backbone: nn.Module, name: str) -> None:
    """Put the identity in place of the linear layer that was registered last: the classifier over ImageNet's classes."""
    linear = [path for path, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise EncoderError(f"torchvision:{name} ends in no linear layer.", remedy="pass the module itself")
    parent, _, attribute = linear[-1].rpartition(".")
    setattr(backbone.get_submodule(parent), attribute, nn.Identity())
