"""Faults of training: values that are not finite, too little memory, a model that has learned nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from genaf_sdk.engine.processes import ALONE
from genaf_sdk.engine.sharding import full_tensor
from genaf_sdk.errors import TrainingError
from genaf_sdk.models.modes import inference_mode_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from genaf_sdk.data import LabeledImages
    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.engine.processes import Processes
    from genaf_sdk.models.classifier import Classifier

SERIOUS_EPOCHS = 5
READ = 256  # images at a time

logger = logging.getLogger(__name__)


@torch.no_grad()
def all_finite(tensors: list[Tensor]) -> Tensor:
    """Return whether no tensor holds NaN or infinity, as one Boolean on the device of the first."""
    values = [tensor.detach().float() for tensor in tensors if tensor.numel()]
    norms = torch._foreach_norm(values, float("inf"))
    return torch.isfinite(torch.stack([norm.to(values[0].device) for norm in norms])).all()


def require_finite(model: nn.Module, stage: str, step: int, processes: Processes = ALONE) -> None:
    """Refuse weights and buffers that are not finite; all processes call this, as each has statistics of its own.

    Raises:
        TrainingError: One is NaN or infinite in any process; the error names it.
    """
    state = {name: full_tensor(value) for name, value in model.state_dict().items() if value.is_floating_point()}
    processes.together(lambda: _require_finite(state, stage, step))


def _require_finite(state: dict[str, Tensor], stage: str, step: int) -> None:
    if bool(all_finite(list(state.values()))):
        return
    name = next(name for name, value in state.items() if not bool(torch.isfinite(value).all()))
    raise TrainingError(
        f"{name} is no longer finite after step {step} of {stage}.",
        remedy="lower the learning rates or use mixed_precision='no', then go on with resume=True from the last "
        "checkpoint, whose weights are finite",
    )


@torch.no_grad()
def require_discerning(model: Classifier, name: str, images: LabeledImages, epochs: int) -> None:
    """Refuse a model that puts all images into one class: its accuracy is that class's share, under any attack.

    Args:
        model: Pixels to logits.
        name: What errors call it.
        images: Of several classes; where they are of one, nothing is said.
        epochs: How long it was trained; fewer than ``SERIOUS_EPOCHS`` are a trial, of which nothing is said either.

    Raises:
        TrainingError: It does.
    """
    if epochs < SERIOUS_EPOCHS or len(images.labels.unique()) < 2:
        return
    device = next(model.parameters()).device
    found: set[int] = set()
    with inference_mode_of(model):
        for start in range(0, len(images), READ):
            pixels, _ = images.__getitems__(range(start, min(start + READ, len(images))))
            found |= set(model(pixels.to(device)).argmax(dim=1).tolist())
            if len(found) > 1:
                return
    raise TrainingError(
        f"The {name} model puts all {len(images)} validation images into class {found.pop()}: it has learned nothing.",
        expected="predictions of more than one class",
        remedy="lower method.schedule.encoder_learning_rate, train for more epochs, or look at the images and labels",
    )


def halved_micro_batches(error: RuntimeError, batch: Batch, count: int) -> int:
    """Return how many micro-batches to cut a step into after one for which memory did not suffice: twice as many.

    The micro-batches' gradients add up to the batch's, but batch norm sees one of them at a time. Several processes
    cannot part ways here, as they wait for one another within a step.

    Args:
        error: What was raised.
        batch: This process's rows of a global batch.
        count: How many micro-batches there were.

    Raises:
        TrainingError: Pairs of images are too large, or there are several processes.
        RuntimeError: The error itself, if it is about something else than memory.
    """
    if not should_reduce_batch_size(error):
        raise error
    several = batch.processes.count > 1
    if several or len(batch.rows) < 4 * count:
        raise TrainingError(
            f"Out of memory with a micro-batch of {len(batch.rows) // count} images.",
            remedy="set micro_batch_size" if several else "lower image size, or use a smaller encoder",
        ) from error
    return 2 * count


def free_memory(count: int) -> None:
    """Give back what a step that was given up held, and say that steps are cut into ``count`` from now on."""
    clear_device_cache(garbage_collection=True)
    logger.warning(
        "Out of memory: each batch is now cut into %d micro-batches whose gradients are added up. Batch norm sees one "
        "micro-batch at a time.",
        count,
    )
