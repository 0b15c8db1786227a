"""Accuracy, counted exactly by all processes together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from genaf_sdk.data.sampling import batch_size
from genaf_sdk.engine.processes import ALONE, Processes
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.models.parts import in_parts

if TYPE_CHECKING:
    from torch import nn

    from genaf_sdk.data import LabeledImages


@torch.no_grad()
def accuracy(model: nn.Module, images: LabeledImages, device: torch.device, processes: Processes = ALONE) -> float:
    """Return the share of ``images`` that ``model`` (pixels to logits) gets right: an exact count.

    Several processes take every so many-th image each; all have to call this, and all call ``model`` equally often. One
    alone calls it part by part, which is faster on a processor.
    """
    right = torch.zeros((), dtype=torch.int64, device=device)
    at_once = batch_size(images[0][0].shape) * processes.count
    with inference_mode_of(model):
        for start in range(0, len(images), at_once):
            rows = range(len(images))[start : start + at_once]
            own = rows[processes.index :: processes.count]
            x, y = images.__getitems__(own or rows[:1])
            x = x.to(device)
            logits = in_parts(model, x) if processes.count == 1 else model(x)
            correct = logits.argmax(1) == y.to(device)
            right += correct[: len(own)].sum()
    return int(processes.all_reduce(right)) / len(images)
