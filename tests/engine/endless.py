"""Started by test_faults.py as two processes that train together until one of them is killed."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import torch
from accelerate import Accelerator
from conftest import TinyEncoder, stripes

from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits, LabelledImages
from genaf_sdk.engine.stage import Run
from genaf_sdk.methods.gen_af import dual_track_finetuning
from genaf_sdk.models.classifier import HardenedModel
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import Head


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
    encoder = PixelEncoder(Telling())
    model = HardenedModel(encoder, Head(16, 3), class_names=("red", "green", "blue"), image_size=(16, 16))
    parts = [LabelledImages.in_memory(*stripes(count, seed)) for seed, count in enumerate((96, 30, 30))]
    data = DataSplits(*parts, class_names=("red", "green", "blue"))
    config = replace(HardenConfig().dual_track, epochs=10_000, batch_size=32)
    dual_track_finetuning(Run(Accelerator(cpu=True), show_progress=False), model, data, config)
