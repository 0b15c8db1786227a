"""Checkpoints with the key names of solo-learn's own modules, method by method (solo/methods/*.py)."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from genaf_sdk.encoders import build_backbone, load_encoder, solo_learn
from genaf_sdk.errors import EncoderError

WIDTH = 512


def mlp(*layers: str | int, width: int = WIDTH, bias: bool = True, last: str = "") -> nn.Sequential:
    """Linear layers with batch norm ("b"), an activation ("a"), to the widths given, as solo-learn stacks them."""
    modules: list[nn.Module] = []
    for layer in layers:
        if layer == "b":
            modules.append(nn.BatchNorm1d(width))
        elif layer == "a":
            modules.append(nn.ReLU())
        else:
            modules.append(nn.Linear(width, int(layer), bias=bias))
            width = int(layer)
    if last == "plain-norm":
        modules.append(nn.BatchNorm1d(width, affine=False))
    return nn.Sequential(*modules)


def dino_head() -> nn.Module:
    head = nn.Module()
    head.mlp = mlp(16, "a", 16, "a", 8)
    head.last_layer = weight_norm(nn.Linear(8, 32, bias=False))
    return head


def weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


def mae_decoder() -> nn.Module:
    decoder = nn.Module()
    decoder.mask_token = nn.Parameter(torch.zeros(1, 1, 8))
    decoder.decoder_pos_embed = nn.Parameter(torch.zeros(1, 65, 8), requires_grad=False)
    decoder.decoder_embed, decoder.decoder_pred = nn.Linear(192, 8), nn.Linear(8, 48)
    decoder.decoder_blocks = nn.Sequential(Block(8, 2))
    decoder.decoder_norm = nn.LayerNorm(8)
    return decoder


def queue() -> dict[str, Tensor]:
    return {"queue": torch.randn(32, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}


def method_parts(method: str) -> tuple[dict[str, nn.Module], dict[str, Tensor], bool]:
    """What a method keeps beside backbone and classifier: modules, buffers, and whether it has momentum copies."""
    labels = {"queue_y": -torch.ones(32, dtype=torch.long)}
    none: dict[str, Tensor] = {}
    two = {"projector": mlp(16, "a", 8)}
    three = {"projector": mlp(16, "b", "a", 16, "b", "a", 8)}
    predictor = {"predictor": mlp(16, "b", "a", 8, width=8)}
    loss = nn.Module()
    loss.register_buffer("center", torch.zeros(1, 32))
    transformer = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False)
    with_norm = {"projector": mlp(16, "b", "a", 8)}
    return {
        "byol": ({**with_norm, "momentum_projector": mlp(16, "b", "a", 8), **predictor}, none, True),
        "dino": ({"head": dino_head(), "momentum_head": dino_head(), "dino_loss_func": loss}, none, True),
        "mocov2plus": ({**two, "momentum_projector": mlp(16, "a", 8)}, queue(), True),
        "mocov3": (
            {
                "projector": mlp(16, "b", "a", 8, bias=False, last="plain-norm"),
                "momentum_projector": mlp(16, "b", "a", 8, bias=False, last="plain-norm"),
                "predictor": mlp(16, "b", "a", 8, width=8, bias=False),
            },
            none,
            True,
        ),
        "nnclr": ({"projector": mlp(16, "b", "a", 16, "b", "a", 8, "b"), **predictor}, queue() | labels, False),
        "ressl": ({**two, "momentum_projector": mlp(16, "a", 8)}, queue(), True),
        "simclr": (two, none, False),
        "swav": (
            {**with_norm, "prototypes": weight_norm(nn.Linear(8, 32, bias=False))},
            {"queue": torch.zeros(2, 32, 8)},
            False,
        ),
        "vibcreg": (three, none, False),
        "wmse": (with_norm, none, False),
        "all4one": (
            {**with_norm, "momentum_projector": mlp(16, "b", "a", 8), **predictor, "transformer_encoder": transformer},
            queue() | labels | {"queue_index": -torch.ones(32, dtype=torch.long)},
            True,
        ),
        "barlow_twins": (three, none, False),
        "deepclusterv2": (
            {**with_norm, "prototypes": nn.ModuleList([nn.Linear(8, 32, bias=False) for _ in range(3)])},
            {"local_memory_index": torch.zeros(4, dtype=torch.long), "local_memory_embeddings": torch.zeros(2, 4, 8)},
            False,
        ),
        "nnbyol": ({**with_norm, "momentum_projector": mlp(16, "b", "a", 8), **predictor}, queue() | labels, True),
        "nnsiam": ({"projector": mlp(16, "b", "a", 16, "b", "a", 8), **predictor}, queue() | labels, False),
        "simsiam": (
            {"projector": mlp(16, "b", "a", 16, "b", "a", 8, bias=False, last="plain-norm"), **predictor},
            none,
            False,
        ),
        "supcon": (two, none, False),
        "vicreg": (three, none, False),
        "mae": ({"decoder": mae_decoder()}, none, False),
    }[method]


PAPER = ("byol", "dino", "mocov2plus", "mocov3", "nnclr", "ressl", "simclr", "swav", "vibcreg", "wmse")
OTHERS = ("all4one", "barlow_twins", "deepclusterv2", "nnbyol", "nnsiam", "simsiam", "supcon", "vicreg")


@pytest.fixture(scope="module")
def cifar_backbone() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("solo-learn:resnet18-cifar").eval()


def save_checkpoint(
    folder: Path, backbone: nn.Module, method: str = "simclr", *, name: str = "backbone", settings: dict | None = None
) -> Path:
    """Write what Lightning writes for a solo-learn module; ``settings`` goes to args.json beside it."""
    parts, kept, momentum = method_parts(method)
    state = {f"{name}.{key}": value for key, value in backbone.state_dict().items()}
    if momentum:
        wrong = {f"momentum_{name}.{key}": torch.full_like(value, 7) for key, value in backbone.state_dict().items()}
        state = {**wrong, **state}
    state |= {"classifier.weight": torch.zeros(10, WIDTH), "classifier.bias": torch.zeros(10)}
    for part, module in parts.items():
        state |= {f"{part}.{key}": value for key, value in module.state_dict().items()}
    state |= kept
    path = folder / f"{method}-cifar10-ep=999.ckpt"
    torch.save(
        {
            "epoch": 999,
            "global_step": 195000,
            "pytorch-lightning_version": "2.1.2",
            "state_dict": state,
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {},
            "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
            "lr_schedulers": [{"warmup_epochs": 10, "last_epoch": 999}],
            "hyper_parameters": argparse.Namespace(method=method),
        },
        path,
    )
    if settings is not None:
        (folder / "args.json").write_text(json.dumps(settings))
    return path


CIFAR10 = {"method": "any", "data": {"dataset": "cifar10"}, "augmentations": [{"crop_size": 32}]}


@pytest.mark.parametrize("method", PAPER + OTHERS)
def test_every_method_gives_its_online_backbone(method: str, cifar_backbone: nn.Module, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, cifar_backbone, method, settings=CIFAR10)
    encoder = load_encoder(f"solo-learn:{path}")
    assert encoder.source == "solo-learn:resnet18-cifar"
    assert encoder.image_size == (32, 32)
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in solo_learn.NORMALIZATION["cifar10"])
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), cifar_backbone((images - mean) / std))


def test_the_cifar_stem_is_solo_learns(cifar_backbone: nn.Module) -> None:
    with torch.no_grad():
        maps = cifar_backbone.conv1(torch.rand(1, 3, 32, 32))
    assert maps.shape == (1, 64, 34, 34), "3 x 3, stride 1, padding 2"
    assert isinstance(cifar_backbone.maxpool, nn.Identity)


@pytest.mark.parametrize("depth", ["resnet18", "resnet50"])
def test_the_imagenet_stem_is_told_by_its_shape(depth: str, tmp_path: Path) -> None:
    backbone = build_backbone(f"solo-learn:{depth}")
    settings = {"data": {"dataset": "imagenet100"}, "augmentations": [{"crop_size": 224}]}
    encoder = load_encoder(str(save_checkpoint(tmp_path, backbone, settings=settings)))
    assert encoder.source == f"solo-learn:{depth}"
    assert encoder.image_size == (224, 224)
    assert encoder.mean.flatten().tolist() == pytest.approx(solo_learn.IMAGENET[0])
    assert encoder.feature_dim((64, 64)) == (512 if depth == "resnet18" else 2048)


def test_the_first_versions_called_it_encoder(cifar_backbone: nn.Module, tmp_path: Path) -> None:
    old = {"dataset": "cifar100", "crop_size": [32, 32]}
    encoder = load_encoder(str(save_checkpoint(tmp_path, cifar_backbone, "byol", name="encoder", settings=old)))
    torch.testing.assert_close(encoder.backbone.state_dict(), cifar_backbone.state_dict())
    assert encoder.mean.flatten().tolist() == pytest.approx(solo_learn.NORMALIZATION["cifar100"][0])


@pytest.mark.parametrize(("method", "heads"), [("dino", 3), ("byol", 3), ("mocov3", 12), ("mae", 12)])
def test_vit_tiny_has_the_heads_of_its_method(method: str, heads: int, tmp_path: Path) -> None:
    backbone = build_backbone(f"solo-learn:vit_tiny:patch_size=4,heads={heads},image_size=32x32").eval()
    with torch.no_grad():
        if heads == 12:  # MoCo v3 and MAE: sine and cosine, [CLS] at zero
            backbone.pos_embed[:, 0] = 0
    path = save_checkpoint(tmp_path, backbone, method, settings=CIFAR10)
    encoder = load_encoder(str(path))
    assert encoder.source == f"solo-learn:vit_tiny:patch_size=4,heads={heads},image_size=32x32"
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), backbone((images - encoder.mean) / encoder.std))


def test_without_args_json_the_normalisation_is_asked_for(cifar_backbone: nn.Module, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, cifar_backbone)
    with pytest.raises(EncoderError, match=r"mean= and std= and image_size=.*0\.4914"):
        load_encoder(str(path))
    encoder = load_encoder(str(path), mean=(0.5,), std=(0.25,), image_size=(32, 32))
    assert encoder.image_size == (32, 32)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        "[]",
        "5",
        '{"augmentations": "none"}',
        '{"augmentations": [3]}',
        '{"crop_size": "large"}',
        '{"crop_size": []}',
        '{"crop_size": -32}',
        '{"crop_size": Infinity}',
        '{"augmentations": [{"mean": 0.5}]}',
        '{"augmentations": [{"mean": [null], "std": [1]}]}',
    ],
)
def test_damaged_settings_are_named(content: str, cifar_backbone: nn.Module, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, cifar_backbone)
    (tmp_path / "args.json").write_text(content)
    with pytest.raises(EncoderError, match=r"args\.json cannot be read.*repair or remove it"):
        load_encoder(str(path))


def test_a_normalisation_of_null_is_none(cifar_backbone: nn.Module, tmp_path: Path) -> None:
    unsaid = {"data": {"dataset": "custom"}, "augmentations": [{"crop_size": 32, "mean": None, "std": None}]}
    with pytest.raises(EncoderError, match=r"or mean= and std=\."):
        load_encoder(str(save_checkpoint(tmp_path, cifar_backbone, settings=unsaid)))


def test_other_architectures_are_named_and_can_be_passed(tmp_path: Path) -> None:
    backbone = build_backbone("timm/test_convnext:random")
    path = save_checkpoint(tmp_path, backbone, settings=CIFAR10)
    with pytest.raises(EncoderError, match="architecture="):
        load_encoder(str(path))
    encoder = load_encoder(str(path), architecture="timm/test_convnext", mean=(0.5,), std=(0.25,), image_size=(32, 32))
    torch.testing.assert_close(encoder.backbone.state_dict(), backbone.state_dict())


def without_positions(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name != "pos_embed"}


def without_class_position(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**weights, "pos_embed": weights["pos_embed"][:, 1:]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_positions, "is not known.*architecture="),
        (without_class_position, r"looks like vit_tiny, but has 'pos_embed' of shape .*architecture="),
    ],
)
def test_a_vit_of_other_positions_is_refused_by_name(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, tmp_path: Path
) -> None:
    weights = change(build_backbone("solo-learn:vit_tiny:patch_size=8,image_size=32x32").state_dict())
    torch.save({"state_dict": {f"backbone.{name}": value for name, value in weights.items()}}, tmp_path / "vit.ckpt")
    with pytest.raises(EncoderError, match=message):
        load_encoder(f"solo-learn:{tmp_path / 'vit.ckpt'}", mean=0.5, std=0.5, image_size=(32, 32))


def test_a_stored_id_names_the_architecture_and_is_no_checkpoint() -> None:
    with pytest.raises(EncoderError, match="names an architecture without weights"):
        load_encoder("solo-learn:resnet18-cifar")
    with pytest.raises(EncoderError, match="resnet50-cifar"):
        build_backbone("solo-learn:resnet34")


def test_damaged_weights_are_named(cifar_backbone: nn.Module, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, cifar_backbone, settings=CIFAR10)
    checkpoint = torch.load(path, weights_only=False)  # noqa: TID251  # made by this test
    del checkpoint["state_dict"]["backbone.layer4.1.bn2.weight"]
    torch.save(checkpoint, path)
    with pytest.raises(EncoderError, match=r"lacks 'layer4\.1\.bn2\.weight'"):
        load_encoder(str(path))


def test_weights_without_counters_are_read(cifar_backbone: nn.Module, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, cifar_backbone, settings=CIFAR10)
    checkpoint = torch.load(path, weights_only=False)  # noqa: TID251  # made by this test
    kept = {name: value for name, value in checkpoint["state_dict"].items() if "num_batches" not in name}
    torch.save({"state_dict": kept}, path)
    torch.testing.assert_close(load_encoder(str(path)).backbone.state_dict(), cifar_backbone.state_dict())
