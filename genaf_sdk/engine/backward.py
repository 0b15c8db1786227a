"""The gradient of a batch that crosses the network whole, or in pieces where memory is short."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.randomness import key_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    from genaf_sdk.engine.modules import CurrentBatch
    from genaf_sdk.engine.stage import Step, Tracked, Training

    Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


def backward(
    training: Training,
    forward: Forward,
    accelerator: Accelerator,
    pieces: list[Batch],
    current: CurrentBatch,
    rewind: Callable[[], None],
) -> dict[str, Tensor]:
    """Add the gradient of a batch's loss to the weights.

    A loss that is a mean over images is the sum of its pieces. L_gr compares every two images of the batch: then all
    pieces cross the network once without a graph, the loss of all features and logits gives their gradients, and every
    piece crosses again to send its own on to the weights (Gao et al. 2021, GradCache): one forward pass more, and the
    memory of a piece.

    Args:
        training: Gives images and loss.
        forward: The model as the accelerator prepared it: pixels to features and logits.
        accelerator: Scales the loss and exchanges gradients.
        pieces: All of this process's rows of a global batch.
        current: Is told which piece crosses the network.
        rewind: Takes back what a pass changed in the model's buffers.

    Returns:
        Sums over this process's images, by name: loss, terms, right predictions.
    """

    def cross(inputs: Tracked, piece: Batch) -> tuple[Tracked, Tracked]:
        current.batch = piece
        features, logits = forward(torch.cat(inputs) if len(inputs) > 1 else inputs[0])
        return features.float().chunk(len(inputs)), logits.float().chunk(len(inputs))

    if len(pieces) == 1 or not training.compares_images:
        steps = []
        for piece in pieces:
            steps.append(training.loss(*cross(training.inputs(piece), piece), piece))
            accelerator.backward(steps[-1].loss)
        return _sums(steps, pieces[0])

    batch, processes = Batch.joined(pieces), pieces[0].processes

    def cross_alike(inputs: Tracked, number: int) -> Tracked:
        """Return features and logits, the same ones every time, for layers too that draw random numbers."""
        torch.manual_seed(key_of(batch.key, "piece", processes.index, number))
        features, logits = cross(inputs, pieces[number])
        return (*features, *logits)

    images = [training.inputs(piece) for piece in pieces]
    with torch.no_grad():
        found = [cross_alike(inputs, number) for number, inputs in enumerate(images)]
    rewind()
    leaves = [tuple(rows.detach().requires_grad_() for rows in piece) for piece in found]
    tracked = tuple(torch.cat(rows) for rows in zip(*leaves, strict=True))
    half = len(tracked) // 2
    step = training.loss(tracked[:half], tracked[half:], batch)
    step.loss.backward()
    for number, (inputs, ends) in enumerate(zip(images, leaves, strict=True)):
        outputs = cross_alike(inputs, number)
        sent = [(rows * end.grad).sum() for rows, end in zip(outputs, ends, strict=True) if end.grad is not None]
        accelerator.backward(torch.stack(sent).sum())
    return _sums([step], batch)


def _sums(steps: list[Step], batch: Batch) -> dict[str, Tensor]:
    share = batch.total / batch.processes.count  # from parts of means over the global batch to sums
    sums: dict[str, Tensor] = {}
    for step in steps:
        found = {name: value.detach() * share for name, value in {"loss": step.loss, **step.parts}.items()}
        for name, value in {**found, "train_accuracy": step.correct}.items():
            sums[name] = sums[name] + value if name in sums else value
    return sums
