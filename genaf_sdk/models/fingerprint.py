"""Weights by their hash."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.models.encoder import PixelEncoder


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Return a SHA-256 over names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def encoder_fingerprint(encoder: PixelEncoder) -> str:
    """Return a SHA-256 over an encoder's weights and its normalization, whatever their layout and device."""
    return fingerprint({**encoder.state_dict(), "mean": encoder.mean, "std": encoder.std})
