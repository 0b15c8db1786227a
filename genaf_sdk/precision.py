"""Which devices multiply bfloat16 natively, and how to run a module in it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

CraftingPrecision = Literal["auto", "fp32", "bf16"]


def has_bf16(device: torch.device) -> bool:
    """Return whether ``device`` computes matrix products in bfloat16 faster than in float32.

    True for GPUs since Ampere and for x86 processors with AMX. With AVX512-BF16 alone it was no faster. Threads that
    share a bfloat16 convolution also spin while they wait, which takes many times as long beside other programs
    (``benchmarks/neighbors.py``).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_amx_tile_supported())


def resolve(precision: CraftingPrecision, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return what ``auto`` means on ``device``: bf16 where it is native, else fp32."""
    if precision == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    return precision


@contextmanager
def forward_in(precision: Literal["fp32", "bf16"], *modules: nn.Module) -> Iterator[None]:
    """Context: each module's forward pass runs under autocast and returns float32; weights and losses stay float32.

    Names of submodules stay as they are, so that hooks find their layers.
    """
    if precision == "fp32":
        yield
        return
    for module in modules:
        module.forward = _under_autocast(module)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _under_autocast(module: nn.Module) -> Any:
    forward = module.forward

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        device_type = inputs[0].device.type if inputs else next(module.parameters()).device.type
        with torch.autocast(device_type, torch.bfloat16):
            output: torch.Tensor = forward(*inputs)
        return output.float()

    return run
