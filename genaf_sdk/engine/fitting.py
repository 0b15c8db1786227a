"""A stage of training in progress: the prepared model, its steps, and where it stands."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

import torch

from genaf_sdk.engine.backward import backward
from genaf_sdk.engine.batches import Batch, Epochs
from genaf_sdk.engine.checkpoints import Checkpoint
from genaf_sdk.engine.faults import require_finite, step_is_finite, within_memory
from genaf_sdk.engine.randomness import key_of
from genaf_sdk.engine.sharding import in_precision, make_ready
from genaf_sdk.engine.state import gather_state, restore_state
from genaf_sdk.engine.termination import stopped
from genaf_sdk.engine.totals import Totals
from genaf_sdk.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from genaf_sdk.data import LabelledImages
    from genaf_sdk.engine.modules import CurrentBatch
    from genaf_sdk.engine.stage import Run, Training

logger = logging.getLogger(__name__)


class Fitting:
    """A stage in progress: the prepared model, and where it stands."""

    def __init__(self, run: Run, model: nn.Module, images: LabelledImages, training: Training) -> None:
        self.run, self.model, self.training = run, model, training
        key = key_of(run.seed, training.stage)
        self.epochs = Epochs(images, training.batch_size, key, run.processes)
        share = math.ceil(len(images) / self.epochs.steps / run.processes.count)  # most rows of a process in a batch
        self.total, self.done = training.epochs * self.epochs.steps, 0
        self.pieces = math.ceil(share / (run.micro_batch_size or share))
        self.skipped = 0
        self.totals = Totals(training.stage, 0, run.processes)
        self.first_record = len(run.history)
        if run.accelerator.is_fsdp2:
            make_ready(model, run.accelerator)
        self.prepared, *self.optimizers = run.accelerator.prepare(model, *training.optimizers)
        self.forward = in_precision(self.prepared, run.accelerator) if run.accelerator.is_fsdp2 else self.prepared
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.started = time.monotonic()

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next step belongs to; of the last one where all are done."""
        return min(self.done // self.epochs.steps, self.training.epochs - 1)

    @property
    def is_inside_an_epoch(self) -> bool:
        """Whether part of an epoch is done."""
        return self.done % self.epochs.steps > 0

    def restore(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        checkpoint = self.run.checkpoints.latest(self.training.stage)
        if checkpoint is None:
            return
        restore_state(checkpoint, self.model, self.training.optimizers, self.training.adversary, self.run.accelerator)
        facts = checkpoint.facts
        self.done, self.pieces, self.skipped = checkpoint.step, facts["pieces"], facts["skipped"]
        del self.run.history[self.first_record :]
        self.run.history.extend(facts["history"])
        self.totals = Totals(self.training.stage, self.epoch, self.run.processes, facts["sums"])
        self.started -= facts["seconds"]

    def save(self) -> None:
        """Write a checkpoint of finite weights.

        Raises:
            TrainingError: A weight is NaN or infinite.
            OutputError: It cannot be written.
        """
        self.totals.read()
        require_finite(self.model, self.training.stage, self.done)
        training, accelerator = self.training, self.run.accelerator
        tensors, facts = gather_state(self.model, training.optimizers, training.adversary, accelerator)
        facts |= {
            "pieces": self.pieces,
            "skipped": self.skipped,
            "history": self.run.history[self.first_record :],
            "sums": self.totals.sums,
            "seconds": time.monotonic() - self.started,
            "processes": self.run.processes.count,
        }
        self.run.checkpoints.save(self.training.stage, Checkpoint(self.done, tensors, facts))

    def batches(self) -> Iterator[Batch]:
        """Yield what is left of the epoch."""
        self.training.train_mode(self.model)
        first = self.done % self.epochs.steps
        return self.epochs.batches(self.epoch, first, self.run.accelerator.device)

    def descend(self, batch: Batch, current: CurrentBatch) -> None:
        """Take one step down the loss of a global batch."""
        run, factor = self.run, self.training.schedule(self.done / self.total)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        torch.manual_seed(key_of(batch.key, "torch", run.processes.index))  # for layers that draw by themselves
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]

        def rewind() -> None:
            for buffer, before in buffers:
                buffer.copy_(before)

        def undo() -> None:
            self._begin()
            rewind()

        def attempt(pieces: list[Batch]) -> dict[str, Tensor]:
            return backward(self.training, self.forward, self.run.accelerator, pieces, current, rewind)

        self._begin()
        sums, self.pieces = within_memory(attempt, batch, self.pieces, undo)
        self.done += 1
        if run.non_finite == "skip" and not step_is_finite(run.processes, self.model, sums["loss"]):
            self._skip(undo)
            return
        if self.training.adversary is not None:
            self.training.adversary.learn()
        for optimizer in self.optimizers:
            optimizer.step()
        self.totals.add(self.done, len(batch.rows), sums)
        if self.totals.is_due:
            self.totals.read()

    def _begin(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        if self.training.adversary is not None:
            self.training.adversary.forget()

    def _skip(self, undo: Callable[[], None]) -> None:
        undo()
        require_finite(self.model, self.training.stage, self.done)
        self.skipped += 1
        logger.warning("Step %d of %s was skipped: its loss or gradient is not finite.", self.done, self.training.stage)
        if self.skipped > max(1, self.total // 10):
            raise TrainingError(
                f"{self.skipped} of {self.done} steps of {self.training.stage} had a loss or gradient that is not "
                "finite; a tenth of all steps at most is skipped.",
                remedy="lower the learning rates, use mixed_precision='no', or look at the images",
            )

    def must_stop(self) -> bool:
        """Return whether SIGTERM came to any process; several agree on it where they read the losses anyway."""
        processes = self.run.processes
        if processes.count > 1 and self.is_inside_an_epoch and self.totals.pending:
            return False
        return processes.any(self.run.termination.asked)

    def stop(self) -> None:
        """Save and end the run.

        Raises:
            RunStoppedError: Always.
        """
        self.save()
        self.run.processes.any(True)  # nobody leaves before the first process has written
        raise stopped()

    def end_epoch(self) -> str:
        """Record the epoch that was completed, save, and return its figures as text."""
        run = self.run
        epoch = self.done // self.epochs.steps
        validation = self.training.validate()
        record = {"stage": self.training.stage, "epoch": epoch, **self.totals.means(), **validation}
        text = " ".join([self.totals.text, *(f"{name} {value:.3f}" for name, value in validation.items())])
        record |= {"skipped_steps": self.skipped} if self.skipped else {}
        now = time.monotonic()
        run.history.append({**record, "seconds": round(now - self.started, 3)})
        run.metrics.epoch(run.history)
        self.started = now
        self.totals = Totals(self.training.stage, self.epoch, run.processes)
        self.save()
        return text

    def release(self) -> None:
        """Have the accelerator forget what it prepared, so that a later stage may prepare the same weights."""
        accelerator = self.run.accelerator
        for kept, own in ((accelerator._models, [self.prepared]), (accelerator._optimizers, self.optimizers)):
            kept[:] = [thing for thing in kept if not any(thing is mine for mine in own)]
