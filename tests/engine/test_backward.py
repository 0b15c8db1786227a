from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from genaf_sdk.config import AdversaryConfig, HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.stage import Run
from genaf_sdk.errors import ConfigError
from genaf_sdk.methods.gen_af import Tracks, dual_track_finetuning
from genaf_sdk.models.classifier import HardenedModel
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import Head


class Drawing(nn.Module):
    """A layer that draws from torch's generator by itself, as stochastic depth does."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand_like(x).add(0.5) if self.training else x


def first_step(
    encoder: nn.Module, data: DataSplits, config: HardenConfig, micro_batch_size: int | None
) -> tuple[HardenedModel, list[Tensor]]:
    """Train for one step of 30 images; return the model and the logits of every pass of training."""
    torch.manual_seed(0)
    model = HardenedModel(PixelEncoder(encoder), Head(16, 3), class_names=("r", "g", "b"), image_size=(16, 16))
    passes: list[Tensor] = []
    small = replace(data, train=data.train.subset(range(30)))
    run = Run(Accelerator(cpu=True), show_progress=False, micro_batch_size=micro_batch_size)
    original = Tracks.forward

    def recorded(self: Tracks, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = original(self, pixels)
        passes.append(logits.detach())
        return features, logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracks, "forward", recorded)
        dual_track_finetuning(run, model, small, replace(config.dual_track, epochs=1))
    return model, passes


def test_a_piece_crosses_the_network_twice_alike_and_counts_once(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    model, passes = first_step(nn.Sequential(tiny_encoder, Drawing()), striped, quick_config, 10)
    assert [len(logits) for logits in passes] == [20] * 6  # adversarial and clean images of three pieces, twice
    for first, second in zip(passes[:3], passes[3:], strict=True):
        torch.testing.assert_close(first, second)
    assert dict(model.named_buffers())["encoder.backbone.0.norm.num_batches_tracked"] == 3


@pytest.mark.parametrize(
    ("settings", "images"), [({"genetic_weight": 0.0}, 20), ({"adversary": AdversaryConfig(kind="none")}, 10)]
)
def test_a_loss_without_pairs_crosses_once(
    settings: dict[str, Any], images: int, tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    config = replace(quick_config, dual_track=replace(quick_config.dual_track, **settings))
    _, passes = first_step(tiny_encoder, striped, config, 10)
    assert [len(logits) for logits in passes] == [images] * 3


def test_a_micro_batch_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="micro_batch_size is 1"):
        HardenConfig(micro_batch_size=1)
