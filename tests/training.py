"""Tiny classifiers, and their training without the rest of a run."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from genaf_sdk.data import DataSplits
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.train import train
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods import Method
from genaf_sdk.methods.lab import Lab
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head


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
