from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from training import cpu_run, fine_tune, tiny_model

from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.machine import MachineConfig
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.errors import ConfigError
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods import FineTuning, GenAF, Method
from genaf_sdk.methods.adaptability import Adaptability


class Drawing(nn.Module):
    """A layer that draws from torch's generator by itself, as stochastic depth does."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand_like(x).add(0.5) if self.training else x


def first_step(
    encoder: nn.Module, data: DataSplits, method: Method, micro_batch_size: int | None, images: int = 30
) -> tuple[HardenedModel, list[Tensor]]:
    """Train for one step of some images; return the model and the logits of every pass of training."""
    model = tiny_model(encoder)
    passes: list[Tensor] = []
    small = replace(data, train=data.train.subset(range(images)))
    run = cpu_run(machine=MachineConfig(micro_batch_size=micro_batch_size))
    original = FeaturesAndLogits.forward

    def recorded(self: FeaturesAndLogits, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = original(self, pixels)
        passes.append(logits.detach())
        return features, logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeaturesAndLogits, "forward", recorded)
        fine_tune(method.with_(schedule={"epochs": 1}), run, model, small)
    return model, passes


def test_a_piece_crosses_the_network_twice_alike_and_counts_once(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    method = quick_config.method.with_(adaptability={"epochs": 0})
    model, passes = first_step(nn.Sequential(tiny_encoder, Drawing()), striped, method, 10)
    assert [len(logits) for logits in passes] == [20] * 6  # adversarial and clean images of three pieces, twice
    for first, second in zip(passes[:3], passes[3:], strict=True):
        torch.testing.assert_close(first, second)
    assert dict(model.named_buffers())["encoder.backbone.0.norm.num_batches_tracked"] == 3


@pytest.mark.parametrize(
    ("method", "images"),
    [(GenAF(genetic_weight=0.0, adaptability=Adaptability(epochs=0)), 20), (FineTuning(), 10)],
)
def test_a_loss_without_pairs_crosses_once(
    method: Method, images: int, tiny_encoder: nn.Module, striped: DataSplits
) -> None:
    _, passes = first_step(
        tiny_encoder, striped, method.with_(schedule={"batch_size": 32, "encoder_learning_rate": 1e-3}), 10
    )
    assert [len(logits) for logits in passes] == [images] * 3


@pytest.mark.parametrize(("images", "most", "sizes"), [(5, 2, [3, 2]), (4, 3, [2, 2]), (3, 2, [3]), (31, 30, [16, 15])])
def test_no_image_is_left_alone_where_batch_norm_needs_pairs(
    images: int, most: int, sizes: list[int], tiny_encoder: nn.Module, striped: DataSplits
) -> None:
    encoder = nn.Sequential(tiny_encoder, nn.BatchNorm1d(16))
    method = FineTuning().with_(schedule={"batch_size": 32, "encoder_learning_rate": 1e-3})
    _, passes = first_step(encoder, striped, method, most, images)
    assert [len(logits) for logits in passes] == sizes


def test_a_micro_batch_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="micro_batch_size is 1"):
        MachineConfig(micro_batch_size=1)
