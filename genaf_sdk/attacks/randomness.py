"""torch's own random numbers, which belong to the process, for one attack after the other."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_TURNS = threading.RLock()


@contextmanager
def global_random(seed: int) -> Iterator[None]:
    """Context: torch's random numbers on the CPU come from ``seed`` and are afterwards what they were.

    What needs them where no generator can be given waits here for other threads that do.
    """
    with _TURNS, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
