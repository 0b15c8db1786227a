"""Faults within a training step: values that are not finite, and too little memory."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from genaf_sdk.engine.sharding import local, whole
from genaf_sdk.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.engine.processes import Processes

Result = TypeVar("Result")
logger = logging.getLogger(__name__)


@torch.no_grad()
def all_finite(tensors: list[Tensor]) -> Tensor:
    """Return whether no tensor holds NaN or infinity, as one Boolean on their device."""
    norms = torch._foreach_norm([tensor.detach().float() for tensor in tensors], float("inf"))
    return torch.isfinite(torch.stack(list(norms))).all()


def require_finite(model: nn.Module, stage: str, step: int) -> None:
    """Refuse weights and buffers that are not finite.

    Raises:
        TrainingError: One is NaN or infinite; the error names it.
    """
    state = {name: whole(value) for name, value in model.state_dict().items() if value.is_floating_point()}
    if bool(all_finite(list(state.values()))):
        return
    name = next(name for name, value in state.items() if not bool(torch.isfinite(value).all()))
    raise TrainingError(
        f"{name} is no longer finite after step {step} of {stage}.",
        remedy="lower the learning rates or use mixed_precision='no', then go on with resume=True from the last "
        "checkpoint, whose weights are finite",
    )


def step_is_finite(processes: Processes, model: nn.Module, loss: Tensor) -> bool:
    """Return whether the loss and the gradient are finite on every process; waits for the device."""
    gradients = [local(weight.grad) for weight in model.parameters() if weight.grad is not None]
    return not processes.any(not bool(all_finite([loss, *gradients])))


def within_memory(
    attempt: Callable[[list[Batch]], Result], batch: Batch, pieces: int, undo: Callable[[], None]
) -> tuple[Result, int]:
    """Run ``attempt`` on the batch cut into pieces, twice as many after every lack of memory.

    The pieces' gradients add up to the batch's, but batch norm sees one piece at a time. Several processes cannot part
    ways here, as they wait for one another within a step.

    Args:
        attempt: What needs memory.
        batch: This process's rows of a global batch.
        pieces: How many pieces to start with.
        undo: Removes the traces of an attempt that failed.

    Returns:
        The result, and how many pieces it took.

    Raises:
        TrainingError: Pairs of images are too large, or there are several processes.
    """
    while True:
        try:
            return attempt([batch] if pieces == 1 else batch.split(pieces)), pieces
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            several = batch.processes.count > 1
            if several or len(batch.rows) < 4 * pieces:
                raise TrainingError(
                    f"Memory does not suffice for {len(batch.rows) // pieces} images at once.",
                    remedy="set micro_batch_size" if several else "lower image size, or use a smaller encoder",
                ) from error
        undo()  # outside of the handler, whose traceback keeps the attempt's tensors alive
        clear_device_cache(garbage_collection=True)
        pieces *= 2
        logger.warning(
            "Out of memory: each batch is now cut into %d pieces whose gradients are added up. Batch norm sees a piece "
            "at a time.",
            pieces,
        )
