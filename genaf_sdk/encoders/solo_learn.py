"""``solo-learn:PATH``: checkpoints of solo-learn, whichever of its methods made them.

Its Lightning modules keep the encoder as ``backbone.*`` (``encoder.*`` in the first versions); projectors, predictors,
queues, prototypes, online classifiers and momentum copies are left behind. The architecture is read off the weights'
shapes, data set and crop size off ``args.json``, which solo-learn writes beside every checkpoint.

Source: https://github.com/vturrisi/solo-learn (da Costa et al., JMLR 2022), solo/methods/base.py, solo/backbones and
solo/data/pretrain_dataloader.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from genaf_sdk.encoders.source import KnownEncoder, read_number, read_options, read_size, write_size
from genaf_sdk.encoders.state_dict import COUNTER, read_checkpoint, strip_prefix, weights_of
from genaf_sdk.errors import EncoderError
from genaf_sdk.files import user_path

if TYPE_CHECKING:
    from pathlib import Path

    from genaf_sdk.encoders.source import EncoderOptions
    from genaf_sdk.models.encoder import PixelEncoder

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALIZATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": ((0.4914, 0.4823, 0.4466), (0.247, 0.243, 0.261)),
    "imagenet100": IMAGENET,
    "imagenet": IMAGENET,
}
WIDTHS = {"vit_tiny": 192, "vit_small": 384, "vit_base": 768, "vit_large": 1024}
HEADS = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12, "vit_large": 16}
HEADS_OF_FIXED_POSITIONS = {"vit_tiny": 12, "vit_small": 12, "vit_base": 12, "vit_large": 16}
OPTIONS = ("patch_size", "heads", "image_size")


def known() -> list[KnownEncoder]:
    """Return the spelling; solo-learn has had no public downloads since 2026."""
    return [KnownEncoder("solo-learn:PATH", "solo-learn", "MIT", None, weights=False)]


def load(name: str, options: EncoderOptions) -> PixelEncoder:
    """Return the encoder of the checkpoint at path ``name``.

    Raises:
        EncoderError: No such file, no encoder in it, an architecture that is not built here, or a normalization that is
            not stated and was not passed.
    """
    path = user_path(name)
    if not path.is_file():
        raise EncoderError(
            f"There is no solo-learn checkpoint {name!r}.",
            expected="the path of a .ckpt file",
            remedy="solo-learn:ARCHITECTURE names an architecture without weights; give the checkpoint it came from",
        )
    return from_weights(weights_of(read_checkpoint(path), path), path, options)


def is_solo_learn(weights: dict[str, Tensor]) -> bool:
    """Whether the names are those of a solo-learn module."""
    return any(name.startswith(("backbone.", "encoder.")) for name in weights)


def from_weights(weights: dict[str, Tensor], path: Path, options: EncoderOptions) -> PixelEncoder:
    """Return the encoder among the weights of a solo-learn module.

    Args:
        weights: Of the whole module, by name.
        path: Where they come from, for errors.
        options: Channels, normalization and size that the caller asks for.

    Raises:
        EncoderError: There is no such encoder among them, or they do not fit its architecture.
    """
    own = strip_prefix(weights, "backbone.") or strip_prefix(weights, "encoder.") or weights
    own = {key: value for key, value in own.items() if key.partition(".")[0] not in ("fc", "head")}
    architecture = architecture_of(own, path)
    backbone = build(architecture)
    needed = backbone.state_dict()
    doubts = [f"lacks {key!r}" for key in needed if key not in own and not key.endswith(COUNTER)]
    doubts += [f"also has {key!r}" for key in own if key not in needed]
    doubts += [
        f"has {key!r} of shape {tuple(own[key].shape)}, not {tuple(value.shape)}"
        for key, value in needed.items()
        if key in own and own[key].shape != value.shape
    ]
    if doubts:
        raise EncoderError(
            f"The checkpoint {str(path)!r} looks like {architecture.partition(':')[0]}, but {doubts[0]}.",
            remedy="pass architecture= with the id it was made from, such as architecture='timm/swin_tiny_patch4_"
            "window7_224'",
        )
    backbone.load_state_dict(own, strict=False)
    mean, std, image_size = _stated(path)
    _require_stated(path, options, architecture, mean, image_size)
    return options.encoder(
        backbone,
        source=f"solo-learn:{architecture}",
        mean=mean,
        std=std,
        image_size=_size_of(architecture) or image_size,
        interpolation="bicubic",
        channels=next(iter(own[key] for key in ("conv1.weight", "patch_embed.proj.weight") if key in own)).shape[1],
    )


def architecture_of(weights: dict[str, Tensor], path: Path) -> str:
    """Return the name that ``build`` understands, read off names and shapes.

    A 3 x 3 first convolution is solo-learn's CIFAR stem. A position embedding whose [CLS] row is exactly zero is the
    fixed sine-cosine one of MoCo v3 and MAE, whose ViTs have more heads than the others at the same shapes.

    Raises:
        EncoderError: The architecture is not built here.
    """
    if "conv1.weight" in weights and "layer1.0.conv1.weight" in weights:
        depth = "resnet50" if "layer1.0.conv3.weight" in weights else "resnet18"
        return depth if weights["conv1.weight"].shape[-1] == 7 else f"{depth}-cifar"
    if all(name in weights for name in ("patch_embed.proj.weight", "cls_token", "pos_embed")):
        width, channels, patch, _ = weights["patch_embed.proj.weight"].shape
        model = next((name for name, known_width in WIDTHS.items() if known_width == width), None)
        if model and channels == 3:
            positions = weights["pos_embed"][0]
            side = round((len(positions) - 1) ** 0.5) * patch
            heads = (HEADS if bool(positions[0].any()) else HEADS_OF_FIXED_POSITIONS)[model]
            return f"{model}:patch_size={patch},heads={heads},image_size={write_size((side, side))}"
    raise EncoderError(
        f"The architecture in {str(path)!r} is not known; its first weights are {', '.join(list(weights)[:3])}.",
        expected="resnet18 or resnet50 (either stem), or vit_tiny, vit_small, vit_base, vit_large",
        remedy="pass architecture= with an id, such as architecture='timm/convnext_tiny'",
    )


def build(name: str) -> nn.Module:
    """Return the architecture without weights: ``resnet18``, ``resnet50-cifar``, ``vit_tiny:patch_size=4,...``.

    Raises:
        EncoderError: There is no such architecture.
    """
    model, _, text = name.partition(":")
    if model.removesuffix("-cifar") in ("resnet18", "resnet50"):
        return _resnet(model)
    if model in WIDTHS:
        return _vit(model, read_options(text, f"solo-learn:{name}", OPTIONS)[1], name)
    raise EncoderError(
        f"solo-learn has no architecture {model!r} that is built here.",
        expected=f"resnet18, resnet18-cifar, resnet50, resnet50-cifar, {', '.join(WIDTHS)}",
    )


def _resnet(model: str) -> nn.Module:
    from torchvision import models

    backbone: nn.Module = models.get_model(model.removesuffix("-cifar"), weights=None)
    backbone.fc = nn.Identity()
    if model.endswith("-cifar"):
        # Padding 2 looks like a slip, as it makes 34 x 34 maps of 32 x 32 pixels, but the weights were trained with it.
        backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=2, bias=False)
        backbone.maxpool = nn.Identity()
    return backbone


def _vit(model: str, options: dict[str, str], name: str) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    backbone: nn.Module = VisionTransformer(
        img_size=read_size(options.get("image_size", "224x224"), name),
        patch_size=read_number(options.get("patch_size", "16"), name),
        embed_dim=WIDTHS[model],
        depth=24 if model == "vit_large" else 12,
        num_heads=read_number(options.get("heads", str(HEADS[model])), name),
        num_classes=0,
    )
    return backbone


def _size_of(architecture: str) -> tuple[int, int] | None:
    """Return the size that the architecture itself prescribes: a ViT's; convolutions take any."""
    _, options = read_options(architecture.partition(":")[2], architecture, OPTIONS)
    return read_size(options["image_size"], architecture) if "image_size" in options else None


def _stated(path: Path) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, int] | None]:
    """Return mean, std and crop size from ``args.json`` beside the checkpoint; empty where it does not say."""
    file = path.with_name("args.json")
    if not file.is_file():
        return (), (), None
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        data = settings["data"] if isinstance(settings.get("data"), dict) else settings
        augmentations = settings.get("augmentations") or [{}]
        first = augmentations[0] if isinstance(augmentations, list) else augmentations
        crop = first.get("crop_size", settings.get("crop_size", settings.get("img_size")))
        side = int((crop[0] if isinstance(crop, list) else crop) or 0)
        if side < 0:
            raise ValueError(f"a crop size of {side}")
        mean, std = NORMALIZATION.get(str(data.get("dataset")), (first.get("mean"), first.get("std")))
        return tuple(map(float, mean or ())), tuple(map(float, std or ())), (side, side) if side else None
    except (OSError, ValueError, RecursionError, AttributeError, LookupError, OverflowError, TypeError) as error:
        raise EncoderError(
            f"{file} cannot be read as solo-learn's settings: {error}.", remedy="repair or remove it"
        ) from error


def _require_stated(
    path: Path, options: EncoderOptions, architecture: str, mean: tuple[float, ...], size: tuple[int, int] | None
) -> None:
    missing = []
    if not mean and options.mean is None:
        missing.append("mean= and std=")
    if not (options.image_size or size or _size_of(architecture)):
        missing.append("image_size=")
    if missing:
        known_sets = "; ".join(f"{name}: mean={m}, std={s}" for name, (m, s) in NORMALIZATION.items())
        raise EncoderError(
            f"Nothing says what data {str(path)!r} was trained on: there is no usable args.json beside it.",
            expected=f"args.json of the training run in the same folder, or {' and '.join(missing)}",
            remedy=f"solo-learn's normalizations are {known_sets}; sizes are 32x32 for CIFAR, 224x224 for ImageNet",
        )
