"""A module of the caller's own: unwrapped, without the classifier that it ends in, normalized as it states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.models.modules import require_own_forward, unwrapped

if TYPE_CHECKING:
    from genaf_sdk.encoders.source import EncoderOptions
    from genaf_sdk.models.encoder import PixelEncoder

IMAGENET_CLASSES = 1000


def wrap(module: nn.Module, options: EncoderOptions) -> PixelEncoder:
    """Return a module of the caller's own as a function of pixels; the modes of its parts are left as they are.

    Wrappers of parallel and compiled runs are taken off, other precisions become float32 in a copy, and the
    normalization is that of timm's ``pretrained_cfg`` (``default_cfg`` of old) or of the ``image_mean`` and
    ``image_std`` of open_clip's towers, where the module carries one.

    Raises:
        EncoderError: The module ends in a classifier, its forward refers to another module, it is a program that cannot
            be trained, has no weights in memory, or a normalization that it states cannot be read.
    """
    module = unwrapped(module)
    modes = [part.training for part in module.modules()]
    _require_trainable_kind(module)
    require_own_forward(module)
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise EncoderError(
            f"The encoder ({type(module).__name__}) has lazy layers that have not seen an image.",
            expected="a module whose weights have their shapes",
            remedy="run it once on an image of the right size before it is passed",
        )
    _require_no_classifier(module)
    encoder = options.encoder(module, source="", **stated_configuration(module))
    for part, training in zip(encoder.backbone.modules(), modes, strict=True):
        part.training = training
    return encoder


def stated_configuration(module: nn.Module) -> dict[str, Any]:
    """Return mean, std, image size and interpolation where the module carries them, as ``options.encoder`` takes them.

    A model of timm that was built with ``img_size=`` keeps that.

    Raises:
        EncoderError: What it states cannot be read.
    """
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    try:
        if config:
            size = getattr(getattr(module, "patch_embed", None), "img_size", None) or config["input_size"][1:]
            return {
                "mean": config["mean"],
                "std": config["std"],
                "image_size": (int(size[0]), int(size[1])),
                "interpolation": config["interpolation"],
            }
        mean, std = getattr(module, "image_mean", None), getattr(module, "image_std", None)
        if mean is None or std is None:
            return {}
        size = getattr(module, "image_size", None)
        size = (size, size) if isinstance(size, int) else size
        return {"mean": mean, "std": std, "image_size": (int(size[0]), int(size[1])) if size else None}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EncoderError(
            f"The normalization that the encoder ({type(module).__name__}) carries cannot be read: {error!r}.",
            expected="mean, std, input_size and interpolation, as timm's pretrained_cfg",
            remedy="pass load_encoder(..., mean=..., std=..., image_size=...) and remove the attribute",
        ) from error


def _require_trainable_kind(module: nn.Module) -> None:
    """Refuse programs of TorchScript, whose copies cannot be trained, those without modes, and weights on no device.

    Raises:
        EncoderError: The module is one of these.
    """
    kind = type(module).__name__
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise EncoderError(
            f"The encoder ({kind}) is a program of TorchScript, of which no copy can be trained.",
            expected="the module that it was made from",
            remedy="build that module and load the weights: module.load_state_dict(program.state_dict())",
        )
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise EncoderError(
            f"The encoder ({kind}) has weights on the device 'meta', which holds no values.",
            expected="a module whose weights are in memory",
            remedy="build it outside of torch.device('meta'), and load its weights",
        )
    try:
        with inference_mode_of(module):
            pass
    except NotImplementedError as error:
        raise EncoderError(
            f"The encoder ({kind}) has no training mode: {error}",
            expected="a module whose train() and eval() can be called",
            remedy="save a program of torch.export, and pass load_encoder('PATH.pt2', trusted=True)",
        ) from error


def _require_no_classifier(module: nn.Module) -> None:
    """Refuse a classifier: the logits of its classes are no features.

    Models of timm say how many classes they have; those of torchvision end in a layer of ImageNet's 1,000.

    Raises:
        EncoderError: The module is one.
    """
    classes = getattr(module, "num_classes", None)
    if hasattr(module, "reset_classifier") and isinstance(classes, int) and classes > 0:
        raise EncoderError(
            f"The encoder is a classifier of {classes} classes; its logits would serve as features.",
            expected="a model without its head",
            remedy="build it with num_classes=0, or call reset_classifier(0)",
        )
    last = [part for part in module.modules() if isinstance(part, (nn.Linear, nn.Conv2d))][-1:]
    width = [part.out_features if isinstance(part, nn.Linear) else part.out_channels for part in last]
    if type(module).__module__.startswith("torchvision.models") and width == [IMAGENET_CLASSES]:
        raise EncoderError(
            f"The encoder is a classifier of torchvision; the logits of its {IMAGENET_CLASSES} classes would serve as "
            "features.",
            expected="a model without its head",
            remedy="put nn.Identity() in the place of its last layer, or name it by id: torchvision:NAME",
        )
