"""Started by test_processes.py, once for each process: one training step, then its loss and gradients in a file."""

from __future__ import annotations

import sys

import torch
from conftest import TinyEncoder, stripes
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from training import cpu_run, fine_tune

from genaf_sdk.config import HardenConfig
from genaf_sdk.data import LabeledImages
from genaf_sdk.data.splits import DataSplits
from genaf_sdk.engine.machine import MachineConfig
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head


def main(preset: str, output: str, steps: int, micro_batch_size: int | None = None) -> None:
    """Train for ``steps`` batches of 33 images in float32, with dropout, shifts and batch norm.

    In micro-batches the norm is by groups: batch norm would see other images together.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = TinyEncoder()
    backbone.register_parameter("passed_over", torch.nn.Parameter(torch.ones(3)))  # as the pooler of some transformers
    if micro_batch_size:
        backbone.norm = torch.nn.GroupNorm(2, 8)
    encoder = PixelEncoder(backbone)
    model = HardenedModel(encoder, build_head("mlp", 16, 3), class_names=("red", "green", "blue"), image_size=(16, 16))
    parts = [LabeledImages.in_memory(*stripes(count, seed)) for seed, count in enumerate((33 * steps, 30, 30))]
    data = DataSplits(*parts, class_names=("red", "green", "blue"))
    method = HardenConfig.preset(preset).method.with_(
        schedule={"epochs": 1, "batch_size": 33, "encoder_learning_rate": None}
    )
    method = method.with_(adaptability={"epochs": 0}) if hasattr(method, "adaptability") else method
    run = cpu_run(machine=MachineConfig(micro_batch_size=micro_batch_size))
    found: dict[str, Tensor] = {}

    def keep_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for name, weight in model.named_parameters():
            if weight.grad is not None and name not in found:
                found[name] = weight.grad.clone()

    handle = register_optimizer_step_pre_hook(keep_gradients)
    fine_tune(method, run, model, data)
    handle.remove()
    record = run.history[-1]
    for name in ("loss", "train_accuracy", "validation_accuracy", "genetic", "adversarial", "divergence"):
        if name in record:
            found[f"history.{name}"] = torch.tensor(record[name])
    found |= {f"weights.{name}": value for name, value in model.state_dict().items()}
    if run.accelerator.is_main_process:
        save_file({name: value.contiguous() for name, value in found.items()}, output)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
