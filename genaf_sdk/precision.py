"""Which devices multiply bfloat16 natively."""

from __future__ import annotations

from typing import Literal

import torch

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
