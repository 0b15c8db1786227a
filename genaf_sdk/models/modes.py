"""Modes for a block: training or eval of a module and of each of its parts, and how exactly a GPU computes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextlib.contextmanager
def inference_mode_of(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in eval mode for the block, then every submodule back in the mode it was in."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Have a GPU compute float32 in float32 for the block, as the exported graph is computed, then as it was set to.

    torch lets convolutions round to TF32 (10 bits of mantissa) by default, which decides a few images otherwise.
    Elsewhere than on a GPU nothing is set: the settings are those of the whole process.
    """
    if device.type != "cuda":
        yield
        return
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # made when torch is imported
    products = torch.backends.cuda.matmul
    before = convolutions.fp32_precision, products.fp32_precision
    convolutions.fp32_precision = products.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision, products.fp32_precision = before
