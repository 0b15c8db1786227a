"""One tiny member of each family through the whole path: both stages, sensitivity, and the ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.models.beit import Beit
from torch import nn

from genaf_sdk import HardenConfig, HardenedModel, harden, load_data, load_encoder
from genaf_sdk.attacks import UAPGD
from genaf_sdk.encoders import build_backbone
from genaf_sdk.export.parity import check_parity
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.models.encoder import PixelEncoder

FEW_STEPS = HardenConfig().with_(
    method={
        "schedule": {"epochs": 1, "batch_size": 8, "encoder_learning_rate": None},
        "adaptability": {
            "epochs": 1,
            "batch_size": 8,
            "interpolations": 1,
            "probe_epochs": 0,
            "sensitivity": {"steps": 1, "samples": 8},
        },
    }
)
ATTENTION = "blocks.layers.0.self_attn.in_proj_weight"
FOUR = {"mean": (0.5,) * 4, "std": (0.25,) * 4}


def folded() -> nn.Module:
    """BatchNorm merged into the convolutions, as models for inference come."""
    from torch.fx.experimental.optimization import fuse

    network = fuse(build_backbone("timm/test_resnet").eval()).requires_grad_(True)  # torch leaves new biases frozen
    assert not [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    return network


class Tokens(nn.Module):
    """A module of the user's own whose output object has a pooled part, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": self.blocks(self.patches(images).flatten(2).transpose(1, 2)).mean(1)}


def timm(name: str, height: int, width: int, **options: object) -> Callable[[], PixelEncoder]:
    return lambda: load_encoder(f"timm/{name}:random", image_size=(height, width), **options)


def beit() -> PixelEncoder:
    """Attention with a bias for relative positions."""
    network = Beit(32, patch_size=8, embed_dim=32, depth=2, num_heads=2, use_rel_pos_bias=True, num_classes=0)
    return load_encoder(network, image_size=(32, 32))


def solo_learn_vit() -> PixelEncoder:
    architecture = "solo-learn:vit_tiny:patch_size=16,heads=3,image_size=32x32"
    return PixelEncoder(build_backbone(architecture), source=architecture, image_size=(32, 32))


FAMILIES = {
    "resnet": (timm("test_resnet", 32, 32), "conv1.0.weight"),
    "resnet without BatchNorm": (lambda: load_encoder(folded(), image_size=(32, 32)), "conv1.0.weight"),
    "vit": (timm("test_vit", 32, 32), "blocks.0.attn.qkv.weight"),
    "vit, four bands, not square": (timm("test_vit", 32, 48, channels=4, **FOUR), "patch_embed.proj.weight"),
    "convnext": (timm("test_convnext", 32, 32), "stem.0.weight"),
    "efficientnet, gray": (timm("test_efficientnet", 32, 32, channels=1, mean=(0.5,), std=(0.5,)), "conv_stem.weight"),
    "beit": (beit, "blocks.0.attn.qkv.weight"),
    "attention of torch": (lambda: load_encoder(Tokens(), image_size=(32, 32)), ATTENTION),
}
SLOW_FAMILIES = {
    "224 pixels": (timm("test_efficientnet", 224, 224), "conv_stem.weight"),
    "nfnet": (timm("test_nfnet", 32, 32), "stem.conv1.weight"),
    "solo-learn vit": (solo_learn_vit, "blocks.11.attn.proj.weight"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # of a module of torch 2.10
@pytest.mark.parametrize("family", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_FAMILIES)])
def test_a_member_of_each_family_is_hardened_and_exported(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, layer = (FAMILIES | SLOW_FAMILIES)[family]
    encoder = make()
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % 3
        noise = torch.rand(count, encoder.channels, *encoder.image_size, generator=generator)
        return noise * 0.4 + labels.view(-1, 1, 1, 1) * 0.3, labels

    data = load_data([images(16), images(6), images(9)], channels=encoder.channels)

    result = harden(encoder, data, FEW_STEPS, evaluate=False, progress=False)

    assert f"encoder.backbone.{layer}" in result.sensitivity
    published = dict(encoder.backbone.named_parameters())
    weights = dict(result.model.encoder.backbone.named_parameters())
    unmoved = [name for name, value in weights.items() if torch.equal(value, published[name])]
    assert len(unmoved) <= 0.1 * len(weights), f"never trained: {unmoved}"

    pixels, _ = data.train.sample(8)
    perturbation = UAPGD(steps=3, batch_size=8)(encoder, pixels)
    with torch.no_grad():
        assert not torch.allclose(encoder(perturbation.apply(pixels)), encoder(pixels), atol=1e-5)

    with torch.no_grad():  # a head that has hardly trained says nearly nothing, and would hide differences
        result.model.head[-1].weight.mul_(100)
    path = export_onnx(result.model, tmp_path / "model.onnx")
    check_parity(result.model, path, data.test.sample(5)[0])

    if encoder.source:
        result.model.save_pretrained(tmp_path)
        with torch.no_grad():
            torch.testing.assert_close(HardenedModel.from_pretrained(tmp_path)(pixels), result.model(pixels))
