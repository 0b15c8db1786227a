"""Started by test_sharding.py: a ViT trained by one process, or by several that share its weights out (FSDP2)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import timm
import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from conftest import stripes
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from genaf_sdk import HardenConfig, harden
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.engine.sharding import full_tensor


def fsdp2(precision: str, *, checkpointing: bool) -> Accelerator:
    """Return an accelerator that shares weights out; accelerate itself does so on accelerators alone, not on CPUs."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Block"],
        activation_checkpointing=checkpointing,
        cpu_ram_efficient_loading=False,
    )
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    assert accelerator.is_fsdp2
    return accelerator


def main(folder: Path, *options: str) -> None:
    """Run ``harden`` on 100 images of which a batch has 33; keep the first gradients, and say what was shared out."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = timm.models.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0, drop_rate=0.1
    )
    parts = [LabeledImages.in_memory(*stripes(count, seed)) for seed, count in enumerate((100, 30, 31))]
    data = DataSplits(*parts, class_names=("red", "green", "blue"))
    precision = "bf16" if "bf16" in options else "no"
    sensitivity = {"steps": 1, "samples": 24}
    config = HardenConfig().with_(
        machine={"mixed_precision": precision},
        method={
            "schedule": {"epochs": 3, "batch_size": 33, "encoder_learning_rate": None},
            "adaptability": {
                "probe_epochs": 0,
                "epochs": 1,
                "batch_size": 33,
                "interpolations": 2,
                "sensitivity": sensitivity,
            },
        },
        export={"precisions": ()},
    )
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    if accelerator.num_processes > 1:
        accelerator = fsdp2(precision, checkpointing="checkpointing" in options)
    first: dict[str, Tensor] = {}
    shared = set()

    def keep_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for number, weight in enumerate(group["params"]):
                shared.add(isinstance(weight, DTensor))
                if weight.grad is not None and len(first) < 30:
                    first[f"{len(first)}.{number}"] = full_tensor(weight.grad).clone()

    handle = register_optimizer_step_pre_hook(keep_gradients)
    result = harden(
        encoder,
        data,
        config,
        output_dir=folder,
        evaluate=False,
        accelerator=accelerator,
        resume="resume" in options,
    )
    handle.remove()
    assert not any(isinstance(weight, DTensor) for weight in result.model.parameters())
    rank = os.environ.get("RANK", "0")
    assert shared == {accelerator.num_processes > 1} or "resume" in options, shared
    total = sum(float(weight.detach().double().abs().sum()) for weight in result.model.parameters())
    (folder / f"told-{rank}").write_text(repr(total))
    if accelerator.is_main_process and first:
        records = [record for record in result.history if record["stage"] == "stage 1"]
        first["loss"] = torch.tensor([record["loss"] for record in records])
        first["accuracy"] = torch.tensor([record["validation_accuracy"] for record in records])
        save_file({name: value.contiguous() for name, value in first.items()}, folder / "first.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
