"""Started by test_faults.py as two processes that train together until one of them is killed."""

from __future__ import annotations

import os
import sys

import torch
from conftest import TinyEncoder, stripes
from training import cpu_run, fine_tune, tiny_model

from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.methods import GenAF


class Telling(TinyEncoder):
    """Prints a line at its tenth forward pass, when training is under way."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map pixels to features."""
        self.calls += 1
        if self.calls == 10:
            sys.stdout.write(f"process {os.environ['RANK']} has trained\n")
            sys.stdout.flush()
        return super().forward(x)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = tiny_model(Telling())
    parts = [LabeledImages.in_memory(*stripes(count, seed)) for seed, count in enumerate((96, 30, 30))]
    data = DataSplits(*parts, class_names=("red", "green", "blue"))
    fine_tune(GenAF().with_(schedule={"epochs": 10_000, "batch_size": 32}), cpu_run(), model, data)
