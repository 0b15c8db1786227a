"""Tiny real models and images that the tests share."""

from __future__ import annotations

import os
import zlib

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: threads that spin starve the other test process

import pytest
import torch
from training import TinyEncoder, stripes

from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits, LabeledImages

torch.set_num_threads(1)  # the tests run in as many processes as there are cores


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have every test draw numbers of its own, whichever tests its process has run before."""
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))


@pytest.fixture
def tiny_encoder() -> TinyEncoder:
    torch.manual_seed(0)
    return TinyEncoder()


@pytest.fixture
def striped() -> DataSplits:
    parts = [LabeledImages.in_memory(*stripes(count, seed)) for seed, count in enumerate((96, 30, 60))]
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
