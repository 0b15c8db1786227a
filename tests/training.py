"""Tiny encoders, classifiers and images, and training without the rest of a run."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from genaf_sdk.data import DataSplits
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.train import train
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods import Method
from genaf_sdk.methods.lab import Lab
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head


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


def tiny_model(encoder: nn.Module) -> HardenedModel:
    """A fresh classifier of three classes on a tiny encoder, always of the same weights."""
    torch.manual_seed(0)
    return HardenedModel(
        PixelEncoder(encoder), build_head("mlp", 16, 3), class_names=("red", "green", "blue"), image_size=(16, 16)
    )


def cpu_run(**settings: Any) -> Run:
    """A run on the CPU that shows nothing."""
    return Run(Accelerator(cpu=True), show_progress=False, **settings)


def fine_tune(method: Method, run: Run, model: HardenedModel, data: DataSplits) -> Lab:
    """Train all stages of a method, as ``harden`` does."""
    lab = Lab(run, model, data)
    for stage in method.stages(lab):
        train(run, model, data, stage)
    return lab
