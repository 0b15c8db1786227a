"""Which learning rate suits this encoder on these images: a short ramp on clean images, which is undone."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from torch.nn import functional as F

from genaf_sdk.engine.batches import GlobalBatches
from genaf_sdk.engine.randomness import random_key
from genaf_sdk.engine.run import RangeTest
from genaf_sdk.engine.stage import Losses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.engine.fitting import Fitting
    from genaf_sdk.engine.modules import CurrentBatch
    from genaf_sdk.engine.stage import Outputs, Views

LOWEST, HIGHEST, STEPS = 1e-5, 1e-1, 48
"""Of the ramp, whose learning rates grow by the same factor at every step."""
BATCH = 64
HEAD_STEPS = 12
"""In which the head's learning rate rises to what is set: Adam's first steps on many features would be far too long."""
MEMORY = 0.8
"""Weight of the losses before in the running mean."""
RISE, LOST = 0.1, 0.2
"""The useful range ends where the mean is above its minimum by these shares of it and of what was gained."""
MARGIN, MOST = 4.0, 1e-2
"""What is chosen is the rate at that point divided by the first, and at most the second: on easy images the loss stays
low at rates that cost robustness."""


def range_test(fitting: Fitting, current: CurrentBatch) -> RangeTest:
    """Let the encoder's learning rate grow until the loss rises, and choose one a fixed factor below.

    After Smith, Cyclical Learning Rates, WACV 2017. It takes up to ``STEPS`` batches of clean images, whatever the
    stage trains on: where the encoder leaves its features is seen more sharply there than under an attack, which hides
    it behind a high loss. Weights, buffers and moments are as before afterwards.

    Args:
        fitting: The stage, at its first step.
        current: As in training.
    """
    rates: list[float] = []
    losses: list[float] = []
    before = fitting.here()
    with _on_clean_images(fitting):
        for step, batch in enumerate(islice(_batches(fitting), STEPS)):
            rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
            loss = fitting.trial_step(batch, current, rate, min(1.0, (step + 1) / HEAD_STEPS))
            if not math.isfinite(loss):
                break
            rates.append(rate)
            losses.append(loss)
            if has_risen(losses):
                break
    fitting.go_back(before)
    return RangeTest(rates, losses, min((rates or [LOWEST])[-1] / MARGIN, MOST))


def running_means(losses: list[float]) -> list[float]:
    """Return means that forget, free of the bias of their start."""
    found, mean, weight = [], 0.0, 0.0
    for loss in losses:
        mean, weight = MEMORY * mean + (1 - MEMORY) * loss, MEMORY * weight + 1 - MEMORY
        found.append(mean / weight)
    return found


def has_risen(losses: list[float]) -> bool:
    """Return whether the running mean has left its minimum; not while the head is warming up."""
    if len(losses) <= HEAD_STEPS:
        return False
    means = running_means(losses)
    lowest = min(means)
    return means[-1] - lowest > max(RISE * lowest, LOST * (means[0] - lowest))


@contextmanager
def _on_clean_images(fitting: Fitting) -> Iterator[None]:
    """Context in which steps descend the cross-entropy on clean images; the stage's adversary learns nothing."""
    stage = fitting.stage
    fitting.stage = replace(stage, views=_clean, losses=_cross_entropy, compares_rows=False, memory=None)
    try:
        yield
    finally:
        fitting.stage = stage


def _clean(model: nn.Module, batch: Batch) -> Views:
    del model
    return (batch.inputs,)


def _cross_entropy(outputs: Outputs, batch: Batch) -> Losses:
    return Losses(F.cross_entropy(outputs.logits[0], batch.labels, reduction="none"))


def _batches(fitting: Fitting) -> Iterator[Batch]:
    run, stage = fitting.run, fitting.stage
    images = fitting.data.train
    size = (
        stage.schedule.batch(len(images)) if run.machine.micro_batch_size else BATCH
    )  # memory is short: as in training
    batches = GlobalBatches(images, size, random_key(run.seed, stage.name, "range test"), run.processes)
    stage.train_mode(fitting.model)
    for epoch in range(STEPS):
        yield from batches.batches(epoch, 0, run.accelerator.device)
