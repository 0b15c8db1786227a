"""What of an encoder repeats, and which of its weights are trained."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from genaf_sdk import HardenConfig, harden
from genaf_sdk.data import DataSplits
from genaf_sdk.encoders.small_resnet import SmallResNet
from genaf_sdk.errors import ConfigError, EncoderError
from genaf_sdk.models.blocks import blocks_of, smallest_blocks_of
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.tuning import TuningConfig, freeze
from genaf_sdk.pipeline import check


def of_timm(name: str) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0)


@pytest.mark.parametrize(
    ("name", "outermost", "innermost"),
    [
        ("resnet18", [f"layer{number}" for number in (1, 2, 3, 4)], 8),
        ("resnet50", [f"layer{number}" for number in (1, 2, 3, 4)], 16),
        ("vit_small_patch14_dinov2", [f"blocks.{number}" for number in range(12)], 12),
        ("convnext_tiny", [f"stages.{number}" for number in range(4)], 18),
        ("swin_tiny_patch4_window7_224", [f"layers.{number}" for number in range(4)], 12),
        ("mobilenetv3_small_100", [f"blocks.{number}" for number in range(6)], 12),
    ],
)
def test_what_repeats_is_found(name: str, outermost: list[str], innermost: int) -> None:
    model = of_timm(name)
    assert list(blocks_of(model)) == outermost
    assert len(smallest_blocks_of(model)) == innermost


def test_where_nothing_repeats_nothing_is_found(tiny_encoder: nn.Module) -> None:
    assert blocks_of(tiny_encoder) == {}
    assert blocks_of(nn.Linear(2, 2)) == {}


def trained(backbone: nn.Module, **tuning: Any) -> list[str]:
    encoder = PixelEncoder(backbone)
    freeze(encoder, TuningConfig(**tuning))
    return [name for name, parameter in encoder.backbone.named_parameters() if parameter.requires_grad]


def test_the_last_blocks_and_what_follows_are_trained() -> None:
    names = [name for name, _ in of_timm("resnet18").named_parameters()]
    assert trained(of_timm("resnet18")) == names
    assert trained(of_timm("resnet18"), train_last=1) == [name for name in names if name.startswith("layer4.")]
    last = trained(of_timm("vit_small_patch14_dinov2"), train_last=2)
    assert {name.rsplit(".", 1)[0] for name in last if not name.startswith("blocks.")} == {"norm"}
    assert {name.split(".")[1] for name in last if name.startswith("blocks.")} == {"10", "11"}


def test_parts_are_trained_by_name() -> None:
    assert trained(SmallResNet(), train_only=("blocks.2.conv1", "norm")) == [
        "norm.weight",
        "norm.bias",
        "blocks.2.conv1.weight",
    ]
    frozen = SmallResNet()
    frozen.stem.requires_grad_(False)
    assert trained(frozen, train_only=("stem", "norm.bias")) == ["norm.bias"], "what its owner froze stays so"


def test_what_cannot_be_trained_is_named(tiny_encoder: nn.Module) -> None:
    with pytest.raises(EncoderError, match="no repeated blocks"):
        trained(tiny_encoder, train_last=1)
    with pytest.raises(EncoderError, match=r"has 3 blocks, from 'blocks\.0' to 'blocks\.2'"):
        trained(SmallResNet(), train_last=4)
    with pytest.raises(EncoderError, match=r"'blocks\.9'.*blocks\."):
        trained(SmallResNet(), train_only=("blocks.9",))
    with pytest.raises(ConfigError, match="one of them"):
        TuningConfig(train_last=1, train_only=("a",))


def test_a_run_leaves_what_is_not_trained_as_it_was(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    config = quick_config.with_(method={"schedule": {"epochs": 1}}, tuning={"train_only": ("conv2",)})
    assert any("frozen" in finding.text for finding in check(tiny_encoder, striped, config))
    result = harden(tiny_encoder, striped, config, evaluate=False, progress=False, preflight=False)
    before, after = dict(tiny_encoder.named_parameters()), dict(result.model.encoder.backbone.named_parameters())
    assert {name for name, value in after.items() if not torch.equal(value, before[name])} == {
        "conv2.weight",
        "conv2.bias",
    }


class Normed(nn.Module):
    """Two convolutions, each with a batch norm; the first one's has no parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x)).flatten(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("parts", "moving"),
    [((), ("first.1", "last.1")), (("last",), ("last.1",)), (("first",), ("first.1",)), (("last.0",), ())],
)
def test_statistics_of_frozen_parts_stay_as_they_were(
    parts: tuple[str, ...], moving: tuple[str, ...], striped: DataSplits, quick_config: HardenConfig
) -> None:
    torch.manual_seed(0)
    encoder = Normed()
    config = quick_config.with_(method={"schedule": {"epochs": 1}}, tuning={"train_only": parts})
    result = harden(encoder, striped, config, evaluate=False, progress=False, preflight=False)
    before, after = dict(encoder.named_buffers()), dict(result.model.encoder.backbone.named_buffers())
    changed = {name.rpartition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == set(moving)
