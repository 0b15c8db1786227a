"""A hardened model made in seconds, for tests of what happens after hardening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genaf_sdk import HardenConfig, HardenedModel, RobustnessReport, harden
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.export.settings import ExportConfig
from genaf_sdk.result import HardenResult


@dataclass
class Made:
    """What a run leaves, without its training."""

    model: HardenedModel
    report: RobustnessReport
    data: DataSplits
    config: Any


class TinyBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x))).mean((2, 3))


def colors(count: int, seed: int) -> LabeledImages:
    labels = torch.arange(count) % 3
    noise = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return LabeledImages.in_memory(0.2 + 0.4 * noise + 0.4 * torch.eye(3)[labels][:, :, None, None], labels)


def tiny_data() -> DataSplits:
    return DataSplits(colors(96, 0), colors(30, 1), colors(60, 2), ("red", "green", "blue"), "colors")


def tiny_result(export: ExportConfig | None = None) -> HardenResult:
    torch.manual_seed(0)
    config = HardenConfig(export=export or ExportConfig(precisions=())).with_(
        baseline={"epochs": 6},
        method={
            "schedule": {"epochs": 10, "batch_size": 32, "encoder_learning_rate": 1e-2},
            "adaptability": {"epochs": 1, "batch_size": 32, "interpolations": 1},
        },
        evaluation={
            "attacks": ("uapgd:steps=10", "pgd:steps=5"),
            "surrogate_samples": 48,
            "sample_wise_samples": 30,
            "curve": (),
        },
    )
    return harden(TinyBackbone(), tiny_data(), config, progress=False)
