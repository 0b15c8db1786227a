"""Started by test_processes.py: ``harden`` as a user calls it, in a process of several."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from conftest import TinyEncoder, stripes

from genaf_sdk import HardenConfig, harden
from genaf_sdk.data import DataSplits, LabeledImages

SENSITIVITY = {"steps": 1, "samples": 24}
CONFIG = HardenConfig().with_(
    method={
        "schedule": {"epochs": 3, "batch_size": 32, "encoder_learning_rate": None},
        "adaptability": {
            "probe_epochs": 0,
            "epochs": 1,
            "batch_size": 32,
            "interpolations": 2,
            "sensitivity": SENSITIVITY,
        },
    },
    export={"precisions": ()},
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    parts = [LabeledImages.in_memory(*stripes(count, seed)) for seed, count in enumerate((96, 30, 30))]
    data = DataSplits(*parts, class_names=("red", "green", "blue"))
    folder = Path(sys.argv[1])
    result = harden(TinyEncoder(), data, CONFIG, output_dir=folder, evaluate=False, resume="resume" in sys.argv)
    total = sum(float(weight.detach().double().abs().sum()) for weight in result.model.parameters())
    (folder / f"told-{os.environ['RANK']}").write_text(repr(total))
    torch.distributed.destroy_process_group()
