"""The gradient of a batch that crosses the network whole, or in micro-batches where memory is short."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.randomness import random_key
from genaf_sdk.engine.stage import Losses, Outputs, Stage, Views

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    from genaf_sdk.engine.modules import CurrentBatch

    Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


def backward(
    stage: Stage,
    forward: Forward,
    accelerator: Accelerator,
    micro_batches: list[Batch],
    views: list[Views],
    current: CurrentBatch,
    rewind: Callable[[], None],
) -> dict[str, Tensor]:
    """Add the gradient of a batch's mean loss to the weights.

    Losses of single rows add up over micro-batches. Where a loss compares rows of the batch, all micro-batches cross
    the network once without a graph, the losses of all features and logits give their gradients, and every micro-batch
    crosses again to send its own on to the weights (Gao et al. 2021, GradCache): one forward pass more, and the memory
    of a micro-batch.

    Args:
        stage: Gives the losses.
        forward: The model as the accelerator prepared it: inputs to features and logits.
        accelerator: Scales the loss and exchanges gradients.
        micro_batches: All of this process's rows of a global batch.
        views: Of every micro-batch.
        current: Is told which micro-batch crosses the network.
        rewind: Takes back what a pass changed in the model's buffers.

    Returns:
        Sums over this process's rows, by name: loss, terms, correct predictions on the last view.
    """

    def cross(batch: Batch, inputs: Views) -> Outputs:
        current.batch = batch
        features, logits = forward(torch.cat(inputs) if len(inputs) > 1 else inputs[0])
        return Outputs(features.float().chunk(len(inputs)), logits.float().chunk(len(inputs)))

    sums: dict[str, Tensor] = {}
    if len(micro_batches) == 1 or not stage.compares_rows:
        for batch, inputs in zip(micro_batches, views, strict=True):
            outputs = cross(batch, inputs)
            losses = stage.losses(outputs, batch)
            accelerator.backward(batch.mean(losses.rows))
            _add(sums, losses, outputs, batch)
        return sums

    whole, processes = Batch.joined(micro_batches), micro_batches[0].processes

    def cross_alike(number: int) -> tuple[Tensor, ...]:
        """Return features and logits, the same ones every time, for layers too that draw random numbers."""
        torch.manual_seed(random_key(whole.key, "piece", processes.index, number))
        outputs = cross(micro_batches[number], views[number])
        return (*outputs.features, *outputs.logits)

    numbers = range(len(micro_batches))
    with torch.no_grad():
        found = [cross_alike(number) for number in numbers]
    rewind()
    leaves = [tuple(rows.detach().requires_grad_() for rows in outputs) for outputs in found]
    joined = tuple(torch.cat(rows) for rows in zip(*leaves, strict=True))
    half = len(joined) // 2
    outputs = Outputs(joined[:half], joined[half:])
    losses = stage.losses(outputs, whole)
    whole.mean(losses.rows).backward()
    for number in numbers:
        crossed = cross_alike(number)
        ends = zip(crossed, leaves[number], strict=True)
        sent = [(rows * leaf.grad).sum() for rows, leaf in ends if leaf.grad is not None]
        accelerator.backward(torch.stack(sent).sum())
    _add(sums, losses, outputs, whole)
    return sums


def _add(sums: dict[str, Tensor], losses: Losses, outputs: Outputs, batch: Batch) -> None:
    correct = outputs.logits[-1].argmax(1) == batch.labels
    for name, rows in {"loss": losses.rows, **losses.terms, "train_accuracy": correct}.items():
        total = rows.detach().sum()
        sums[name] = sums[name] + total if name in sums else total
