"""How many processors and how much memory reading images may use, and what follows for torch's DataLoader."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from genaf_sdk.data.images import LabelledImages

MOST_WORKERS = 8


def processors() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def memory() -> int:
    """Return the machine's memory in bytes; 16 GiB where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 16 * 2**30


def loader_options(images: LabelledImages, device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Return the DataLoader's ``num_workers`` and ``pin_memory`` for this machine.

    Images in memory need no worker. Images on disk get one for every processor but the one that trains, at most
    ``MOST_WORKERS``. Pinned memory makes copies to a CUDA device faster, and is of no use elsewhere.

    Args:
        images: What is loaded.
        device: Where the batches go.
        processes: Training processes that share the processors.
    """
    workers = max(0, min(MOST_WORKERS, processors() // processes - 1)) if images.on_disk else 0
    return {"num_workers": workers, "pin_memory": device.type == "cuda"}
