"""Random numbers as a function of what they are for, never of how many were drawn before.

A number depends on the seed, its purpose, the step and the row of the global batch alone. So a run can go on at any
step without a generator's state, and every number of processes draws the same numbers, each for its own rows.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor


def kept_random_state() -> AbstractContextManager[None]:
    """Return a context after which torch's generators are as they were, those of all GPUs: a seed is one for all.

    Torch itself warns of the time that takes on several GPUs, unless they are named. It takes none: states are small.
    """
    gpus = torch.cuda.device_count()
    if gpus:
        return torch.random.fork_rng(range(gpus), device_type="cuda")
    return torch.random.fork_rng()


def random_key(*parts: int | str) -> int:
    """Return a key from a seed and whatever else tells a purpose apart: 64 bits, signed."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def uniform(key: int, rows: Tensor, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
    """Return uniform numbers in [low, high), the same on every device.

    SplitMix64 (Steele et al., OOPSLA 2014) used as a counter-based generator: of the key and row, then of the column.

    Args:
        key: Of ``random_key``.
        rows: Numbers of the rows wanted, int64 (N,), on the device wanted.
        shape: Shape of one row.
        low: Smallest value.
        high: Bound above.

    Returns:
        Float32 (N, *shape), with 24 random bits each.
    """
    columns = torch.arange(1, math.prod(shape) + 1, device=rows.device)
    bits = _mix(_mix(key + _GOLDEN * (rows + 1))[:, None] + _GOLDEN * columns)
    unit = _shifted(bits, 40).float() / 2**24
    return (low + (high - low) * unit).view(len(rows), *shape)


def integers(key: int, rows: Tensor, shape: tuple[int, ...], bound: int) -> Tensor:
    """Return whole numbers from 0 to ``bound - 1`` (far below 2^24), int64 (N, *shape)."""
    return uniform(key, rows, shape).mul(bound).long()


def permutation(key: int, count: int) -> Tensor:
    """Return 0 to ``count - 1`` in random order, int64 on the CPU."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(key))


def _signed(value: int) -> int:
    return value - (1 << 64)


_GOLDEN, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift of signed numbers fills with the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)
