"""The encoders of docs/encoders.md: at least one of each family, small, with random weights and small images."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from genaf_sdk.encoders import build_backbone, load_encoder
from genaf_sdk.models.encoder import PixelEncoder


@dataclass(frozen=True)
class Candidate:
    """One row: family, what is loaded, and at which size and number of channels."""

    family: str
    name: str
    size: tuple[int, int] = (64, 64)
    channels: int = 3
    make: Callable[[], nn.Module | PixelEncoder] | None = None
    options: dict[str, object] = field(default_factory=dict)

    def load(self) -> PixelEncoder:
        """Return the encoder with random weights, the same ones every time."""
        torch.manual_seed(0)
        if self.make is not None:
            made = self.make()
            return made if isinstance(made, PixelEncoder) else load_encoder(made, image_size=self.size)
        return load_encoder(self.name, image_size=self.size, channels=self.channels, **self.options)


def untrained(encoder_id: str, size: tuple[int, int]) -> Callable[[], PixelEncoder]:
    """An architecture that is only known by its checkpoints."""
    return lambda: PixelEncoder(
        build_backbone(encoder_id), source=encoder_id, mean=(0.5,), std=(0.25,), image_size=size
    )


def folded_resnet() -> nn.Module:
    """A ResNet whose BatchNorm layers were merged into its convolutions."""
    from torch.fx.experimental.optimization import fuse

    return fuse(build_backbone("torchvision:resnet18").eval()).requires_grad_(True)  # torch leaves new biases frozen


def of_transformers(kind: str) -> Callable[[], PixelEncoder]:
    """A small model of transformers, saved and loaded as a folder."""

    def make() -> PixelEncoder:
        import transformers

        small = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 128}
        config = getattr(transformers, kind)(**small, image_size=64, patch_size=16)
        tower = kind == "CLIPVisionConfig"
        model = transformers.CLIPVisionModelWithProjection(config) if tower else None
        model = model or transformers.AutoModel.from_config(config)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            Path(folder, "preprocessor_config.json").write_text(
                json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": 64})
            )
            return load_encoder(folder)

    return make


FOUR = {"mean": (0.5,) * 4, "std": (0.25,) * 4}
GRAY = {"mean": (0.5,), "std": (0.25,)}
VIT_TINY = "solo-learn:vit_tiny:patch_size=8,heads=3,image_size=64x64"
CANDIDATES = [
    Candidate("ResNet, CIFAR stem", "solo-learn:resnet18-cifar", (32, 32),
              make=untrained("solo-learn:resnet18-cifar", (32, 32))),
    Candidate("ResNet", "solo-learn:resnet50", make=untrained("solo-learn:resnet50", (64, 64))),
    Candidate("ViT", VIT_TINY, make=untrained(VIT_TINY, (64, 64))),
    Candidate("small ResNet", "bundled:simclr-cifar10", (32, 32)),
    Candidate("ResNet", "torchvision:resnet18:random"),
    Candidate("ResNet, BatchNorm folded", "torchvision:resnet18, fused", make=folded_resnet),
    Candidate("ResNet, 224 px", "torchvision:resnet18:random", (224, 224)),
    Candidate("GoogLeNet", "torchvision:googlenet:random"),
    Candidate("DenseNet", "torchvision:densenet121:random"),
    Candidate("MobileNetV2", "torchvision:mobilenet_v2:random"),
    Candidate("ShuffleNet", "torchvision:shufflenet_v2_x0_5:random"),
    Candidate("EfficientNet", "torchvision:efficientnet_b0:random"),
    Candidate("RegNet", "torchvision:regnet_y_400mf:random"),
    Candidate("Swin", "torchvision:swin_t:random"),
    Candidate("ConvNeXt", "timm/convnext_atto:random"),
    Candidate("ConvNeXt V2", "timm/convnextv2_atto:random"),
    Candidate("ViT", "timm/vit_tiny_patch16_224:random"),
    Candidate("ViT, DINOv2", "timm/vit_small_patch14_dinov2.lvd142m:random", (56, 56)),
    Candidate("DeiT", "timm/deit_tiny_patch16_224:random"),
    Candidate("EVA-02", "timm/eva02_tiny_patch14_224:random", (56, 56)),
    Candidate("CLIP image tower", "timm/vit_base_patch32_clip_224.openai:random"),
    Candidate("BEiT", "timm/beitv2_base_patch16_224:random"),
    Candidate("XCiT", "timm/xcit_nano_12_p16_224:random"),
    Candidate("PoolFormer", "timm/poolformer_s12:random"),
    Candidate("MobileNetV3", "timm/mobilenetv3_small_050:random"),
    Candidate("MobileViT", "timm/mobilevit_xxs:random"),
    Candidate("EdgeNeXt", "timm/edgenext_xx_small:random"),
    Candidate("GhostNet", "timm/ghostnet_100:random"),
    Candidate("RepVGG", "timm/repvgg_a0:random"),
    Candidate("NFNet, no normalization", "timm/test_nfnet:random"),
    Candidate("CoAtNet", "timm/test_coatnet:random"),
    Candidate("MaxViT", "timm/test_maxvit:random"),
    Candidate("EfficientNet, GroupNorm", "timm/test_efficientnet_gn:random"),
    Candidate("ResNet, gray images", "timm/resnet18:random", channels=1, options=GRAY),
    Candidate("ViT, four bands", "timm/vit_tiny_patch16_224:random", channels=4, options=FOUR),
    Candidate("ViT, not square", "timm/vit_tiny_patch16_224:random", (64, 96)),
    Candidate("ConvNeXt, not square", "timm/convnext_atto:random", (64, 96)),
    Candidate("ViT of transformers", "hf-hub: ViTModel", make=of_transformers("ViTConfig")),
    Candidate("CLIP of transformers", "hf-hub: CLIPVisionModelWithProjection",
              make=of_transformers("CLIPVisionConfig")),
    Candidate("DINOv2 of transformers", "hf-hub: Dinov2Model", make=of_transformers("Dinov2Config")),
]  # fmt: skip
