"""How many processors and how much memory reading images may use, and what follows for torch's DataLoader."""

from __future__ import annotations

import ast
import logging
import multiprocessing
import os
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from genaf_sdk.data.images import LabeledImages

MOST_WORKERS = 8

logger = logging.getLogger(__name__)


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


def loader_options(images: LabeledImages, device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Return what the DataLoader is told about this machine: workers, how they start, pinned memory.

    Images in memory need no worker. Images on disk get one for every processor but the one that trains, at most
    ``MOST_WORKERS``. They live as long as the loader: where each is a new Python, as on macOS, Windows and since Python
    3.14 on Linux, it takes seconds to start. Where they cannot start, this process reads, and a warning says why.
    Pinned memory makes copies to a CUDA device faster, and is of no use elsewhere.

    Args:
        images: What is loaded.
        device: Where the batches go.
        processes: Training processes that share this machine's processors.
    """
    workers = max(0, min(MOST_WORKERS, processors() // processes - 1)) if images.on_disk else 0
    method = start_method()
    obstacle = why_none_can_start(images) if workers and method != "fork" else ""
    if obstacle:
        logger.warning("Images are read by one process instead of %d: %s", workers + 1, obstacle)
        workers = 0
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": device.type == "cuda"}
    return options | ({"persistent_workers": True, "multiprocessing_context": method} if workers else {})


def start_method() -> str:
    """Return how this program starts processes: ``fork``, ``forkserver`` or ``spawn``."""
    return multiprocessing.get_start_method()


def why_none_can_start(images: LabeledImages) -> str:
    """Return why a new Python could not read ``images``, or nothing: it needs them pickled, and imports the program."""
    try:
        ForkingPickler.dumps(images)
    except Exception as error:  # whatever the data set's own parts raise
        return f"the data set cannot be pickled ({error}); give it functions with a name instead of lambdas."
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is not None or path is None:  # python -m, -c, a notebook: nothing runs again
        return ""
    try:
        guarded = "__name__" in {
            node.id for node in ast.walk(ast.parse(Path(path).read_bytes())) if isinstance(node, ast.Name)
        }
    except (OSError, SyntaxError, ValueError):  # no source, as of a frozen program
        return ""
    return "" if guarded else f'{path} would run again in each; put its calls under `if __name__ == "__main__":`.'
