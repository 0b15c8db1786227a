"""Tiny real models and images that the tests share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: threads that spin starve the other test process

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits, LabelledImages

torch.set_num_threads(1)  # the tests run in as many processes as there are cores


class TinyEncoder(nn.Module):
    """Two convolutions and global pooling: pixels (N, 3, H, W) to features (N, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.norm(self.conv1(x))))).mean((2, 3))


def stripes(count: int, seed: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """Three classes that a small network learns in seconds: red, green or blue stripes under noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    ramp = (torch.arange(size) // 2 % 2).float().expand(size, size)
    colors = torch.eye(3)[labels][:, :, None, None]
    noise = torch.rand(count, 3, size, size, generator=generator)
    return 0.2 + 0.4 * noise + 0.4 * colors * ramp, labels


@pytest.fixture
def tiny_encoder() -> TinyEncoder:
    torch.manual_seed(0)
    return TinyEncoder()


@pytest.fixture
def striped() -> DataSplits:
    parts = [LabelledImages.in_memory(*stripes(count, seed)) for seed, count in enumerate((96, 30, 60))]
    return DataSplits(*parts, class_names=("red", "green", "blue"), name="stripes")


@pytest.fixture
def quick_config() -> HardenConfig:
    """A whole run in a few seconds."""
    return HardenConfig().with_(
        baseline={"epochs": 8, "encoder_learning_rate": 1e-2},
        method={
            "schedule": {"epochs": 16, "batch_size": 32, "encoder_learning_rate": 1e-2},
            "adaptability": {
                "probe_epochs": 0,
                "epochs": 2,
                "batch_size": 32,
                "interpolations": 2,
                "sensitivity": {"steps": 2, "samples": 32},
            },
        },
        export={"precisions": ()},
        evaluation={
            "attacks": ("uapgd", "pgd"),
            "surrogate_samples": 48,
            "sample_wise_samples": 30,
            "curve": (4 / 255, 16 / 255),
        },
    )
