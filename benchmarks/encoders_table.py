"""Which encoders work from end to end: a Markdown table for docs/encoders.md.

    python benchmarks/encoders_table.py [PART_OF_A_NAME ...]

Every encoder has random weights and small images, as this is a check of the code and of no accuracy. Columns: features
found by the dry run; two training steps of stage 1 (the loss is finite and every kind of layer moved); robust
sensitivity (number of layers measured); one attack on the encoder (UAPGD, 20 steps, 10/255; how much further, by the
mean of 1 - cosine, which is what it ascends, it turns the features than random signs of the same budget do: a figure,
and no condition, as strength against untrained weights says nothing; the gradient and the budget are conditions);
ONNX export (largest difference of the logits of 16 images, relative to the largest logit). Exits with 1 if any fails.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from genaf_sdk.attacks import UAPGD
from genaf_sdk.config import DualTrackConfig, SensitivityConfig
from genaf_sdk.data import DataSplits, load_data
from genaf_sdk.encoders import build_backbone, load_encoder
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.finetuning.dual_track import dual_track_finetuning
from genaf_sdk.finetuning.loop import Run
from genaf_sdk.finetuning.sensitivity import robust_sensitivity
from genaf_sdk.model import HardenedModel, Head, PixelEncoder

if TYPE_CHECKING:
    from collections.abc import Callable

PARITY = 1e-4


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
GREY = {"mean": (0.5,), "std": (0.25,)}
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
    Candidate("NFNet, no normalisation", "timm/test_nfnet:random"),
    Candidate("CoAtNet", "timm/test_coatnet:random"),
    Candidate("MaxViT", "timm/test_maxvit:random"),
    Candidate("EfficientNet, GroupNorm", "timm/test_efficientnet_gn:random"),
    Candidate("ResNet, grey images", "timm/resnet18:random", channels=1, options=GREY),
    Candidate("ViT, four bands", "timm/vit_tiny_patch16_224:random", channels=4, options=FOUR),
    Candidate("ViT, not square", "timm/vit_tiny_patch16_224:random", (64, 96)),
    Candidate("ConvNeXt, not square", "timm/convnext_atto:random", (64, 96)),
    Candidate("ViT of transformers", "hf-hub: ViTModel", make=of_transformers("ViTConfig")),
    Candidate("CLIP of transformers", "hf-hub: CLIPVisionModelWithProjection",
              make=of_transformers("CLIPVisionConfig")),
    Candidate("DINOv2 of transformers", "hf-hub: Dinov2Model", make=of_transformers("Dinov2Config")),
]  # fmt: skip


def images_for(encoder: PixelEncoder, size: tuple[int, int]) -> DataSplits:
    """Three classes of blurred noise, different in brightness."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % 3
        coarse = torch.rand(count, encoder.channels, 8, 8, generator=generator)
        pixels = F.interpolate(coarse, size, mode="bilinear") * 0.6 + labels.view(-1, 1, 1, 1) * 0.2
        return pixels, labels

    return load_data([part(16), part(6), part(24)], channels=encoder.channels)


def turned(clean: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cosine between features (N, D); in double precision, as it may be tiny."""
    return (1 - F.cosine_similarity(clean.double(), moved.double())).mean()


def row(candidate: Candidate, folder: Path) -> list[str]:
    """Run every step; the first that fails raises."""
    encoder = candidate.load()
    data = images_for(encoder, candidate.size)
    features = encoder.measure(candidate.size)
    model = HardenedModel(
        copy.deepcopy(encoder), Head(features, 3), class_names=data.class_names, image_size=candidate.size
    )
    run = Run(Accelerator(cpu=True), seed=0, show_progress=False)
    before = copy.deepcopy(model.encoder.backbone.state_dict())
    dual_track_finetuning(run, model, data, DualTrackConfig(epochs=1, batch_size=8))
    moved = sum(not torch.equal(value, before[name]) for name, value in model.encoder.backbone.named_parameters())
    total = sum(1 for _ in model.encoder.backbone.parameters())
    if moved < 0.5 * total:
        raise RuntimeError(f"only {moved} of {total} weights moved in training")
    pixels, labels = data.train.head(8)
    rises = robust_sensitivity(model, pixels, labels, SensitivityConfig(steps=1, samples=8))
    perturbation = UAPGD(steps=20, batch_size=8)(encoder, pixels)
    noise = torch.randn(perturbation.values.shape, generator=torch.Generator().manual_seed(0)).sign()
    with torch.no_grad():
        clean = encoder(pixels)
        attacked, shaken = encoder(perturbation.apply(pixels)), encoder((pixels + 10 / 255 * noise).clamp(0, 1))
    gain = float(turned(clean, attacked) / turned(clean, shaken))
    shown = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(turned(clean, encoder(shown * 0.9)), shown)
    if not (torch.isfinite(gradient).all() and gradient.abs().max() > 0 and math.isfinite(gain)):
        raise RuntimeError("the features give the attack no gradient")
    if float(perturbation.values.abs().max()) > 10 / 255 + 1e-6:
        raise RuntimeError("the perturbation is larger than its budget")
    path = export_onnx(model, folder / "model.onnx")
    images, _ = data.test.head(16)
    with torch.no_grad():
        expected = model(images)
    difference = float((OnnxModel(path)(images) - expected).abs().max() / expected.abs().max())
    if not difference <= PARITY:
        raise RuntimeError(f"logits of the ONNX file differ by {difference:.1e}")
    parameters = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    height, width = candidate.size
    return [
        candidate.family,
        f"`{candidate.name}`",
        f"{candidate.channels} x {height} x {width}",
        f"{parameters:.1f} M",
        str(features),
        f"{moved} of {total}",
        str(len(rises)),
        f"{gain:.1f} x",
        f"{difference:.0e}",
    ]


HEADER = ["family", "encoder", "image", "weights", "features", "tensors moved", "layers", "attack", "ONNX"]


def main() -> int:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    chosen = [c for c in CANDIDATES if not wanted or any(text in c.name or text in c.family for text in wanted)]
    failed = 0
    started = time.monotonic()
    print(f"| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}")
    with tempfile.TemporaryDirectory() as folder:
        for candidate in chosen:
            begun = time.monotonic()
            try:
                cells = row(candidate, Path(folder))
            except Exception as error:
                failed += 1
                cells = [candidate.family, f"`{candidate.name}`", f"FAILED: {type(error).__name__}: {error}"[:300]]
            print(f"| {' | '.join(cells)} |", flush=True)
            print(f"{candidate.name}: {time.monotonic() - begun:.1f} s", file=sys.stderr)
    passed = f"{len(chosen) - failed} of {len(chosen)} encoders"
    print(f"\n{passed}, {time.monotonic() - started:.0f} s, torch {torch.__version__}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
