"""One real hardening run at toy size, for the tests of everything that is made from its report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from genaf_sdk import HardenConfig, harden
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import CurvePoint

MARKUP = '<b class="x">$a_1$</b> & |"\'`*'
"""The name of a class, which whoever makes the folders of a data set chooses."""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
    parts = []
    for count in (60, 15, 24):
        labels = torch.arange(count) % 3
        parts.append(
            LabeledImages.in_memory(
                0.5 * torch.rand(count, 3, 16, 16) + 0.4 * torch.eye(3)[labels][..., None, None], labels
            )
        )
    data = DataSplits(*parts, class_names=("red", "green", MARKUP), name="colors")
    sensitivity = {"steps": 1, "samples": 20}
    config = HardenConfig().with_(
        baseline={"epochs": 2},
        method={
            "schedule": {"epochs": 2, "batch_size": 20},
            "adaptability": {
                "probe_epochs": 0,
                "epochs": 1,
                "batch_size": 20,
                "interpolations": 2,
                "sensitivity": sensitivity,
            },
        },
        export={"precisions": ()},
        evaluation={
            "attacks": ("uapgd:steps=3", "label-uap:steps=3", "pgd:steps=3"),
            "surrogate_samples": 40,
            "sample_wise_samples": 20,
            "certificate": {"patch": 0.03, "masks": 2, "samples": 20},
            "corruption_samples": 12,
            "curve": (),  # minutes of crafting; its points are added below
        },
    )
    folder = tmp_path_factory.mktemp("run")
    harden(encoder, data, config, output_dir=folder)
    return folder


@pytest.fixture
def report(bundle: Path) -> RobustnessReport:
    loaded = RobustnessReport.load(bundle)
    for column, attack, correct in (("transfer", "uapgd", 20), ("adaptive", "uapgd", 16), ("white-box", "pgd", 3)):
        loaded.curve += [CurvePoint("hardened", column, attack, k / 255, 24, correct - k // 8) for k in (4, 16)]
    return loaded
