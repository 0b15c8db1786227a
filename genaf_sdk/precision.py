"""What half precision asks for: which devices multiply bfloat16 natively, and gradients that float16 can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

CraftingPrecision = Literal["auto", "fp32", "bf16"]

LOSS_SCALE = 1024.0
"""Lifts gradients over the least number that float16 can hold, 6e-8, and hardly any over the largest, 65504."""


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


def loss_gradients(loss: Tensor, variables: Sequence[Tensor], *, allow_unused: bool = False) -> tuple[Tensor, ...]:
    """Return d loss / d variable for each, and touch no other gradient.

    Under an autocast to float16, where those of a confident model would round to zero, the loss is scaled on the way.

    Args:
        loss: A scalar, float32.
        variables: float32.
        allow_unused: None for what the loss does not depend on, rather than an error.
    """
    device = loss.device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    if not half:
        return torch.autograd.grad(loss, variables, allow_unused=allow_unused)
    scaled = torch.autograd.grad(LOSS_SCALE * loss, variables, allow_unused=allow_unused)
    return tuple(gradient if gradient is None else gradient / LOSS_SCALE for gradient in scaled)
