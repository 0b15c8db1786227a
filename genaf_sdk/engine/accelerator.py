"""What a run computes on: an accelerate.Accelerator of its own, for the devices and processes at hand."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, parse_flag_from_env

from genaf_sdk.engine.processes import Processes
from genaf_sdk.precision import has_bf16

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)
PEERS_TIMEOUT = timedelta(minutes=10)
"""How long a process waits for another that neither answers nor closes its connection, as when a host loses power."""


def joined() -> Processes:
    """Return this process among those that were started together; they meet here, if they have not before."""
    state = _state()
    return Processes(state.process_index, state.num_processes, state.device)


def own_device() -> torch.device:
    """Return what this process computes on: a GPU where there is one, unless ``ACCELERATE_USE_CPU`` is set."""
    device: torch.device = _state().device
    return device


def _state() -> PartialState:
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu, timeout=PEERS_TIMEOUT)


@contextmanager
def own_accelerator(
    mixed_precision: str, trackers: Sequence[Any] = (), folder: Path | None = None
) -> Iterator[Accelerator]:
    """Give an accelerator for the devices at hand; ``auto`` is bf16 where it is native.

    accelerate keeps one state a process: precision, and whether gradients are being accumulated. What the caller has
    there plays no part and comes back afterwards. Trackers are ended, also where the run fails.

    Args:
        mixed_precision: ``no``, ``bf16``, ``fp16`` or ``auto``.
        trackers: As ``require_trackers`` gave them.
        folder: Where trackers that write files write them; None where none does.
    """
    device = _state().default_device
    precision = mixed_precision
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "no"
    kept = (AcceleratorState._shared_state, GradientState._shared_state)
    callers = [dict(state) for state in kept]
    for state in kept:
        state.clear()
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            log_with=list(trackers) or None,
            project_dir=folder,
            # Stated, so that ACCELERATE_GRADIENT_ACCUMULATION_STEPS of another project does not change what is trained.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
        try:
            yield accelerator
        finally:
            _end_trackers(accelerator)
    finally:
        for state, before in zip(kept, callers, strict=True):
            state.clear()
            state.update(before)


def _end_trackers(accelerator: Accelerator) -> None:
    """Let every tracker write what it has; one that fails costs its curve, and hides no error of the run."""
    for tracker in accelerator.trackers:
        try:
            tracker.finish()
        except Exception as error:  # whatever its author lets it raise
            logger.error("The tracker %r was not ended: %s: %s", tracker.name, type(error).__name__, error)
