"""The training loop that every stage and baseline shares: batches, optimizers, checkpoints, faults, progress."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from genaf_sdk.errors import TrainingError
from genaf_sdk.finetuning.batches import Batch, Epochs
from genaf_sdk.finetuning.checkpoints import Checkpoint, Checkpoints
from genaf_sdk.finetuning.faults import require_finite, step_is_finite, within_memory
from genaf_sdk.finetuning.modules import CurrentBatch, globally
from genaf_sdk.finetuning.processes import ALONE, Processes, peers_alive
from genaf_sdk.finetuning.randomness import key_of
from genaf_sdk.finetuning.state import gather_state, restore_state
from genaf_sdk.finetuning.termination import Termination, stopped
from genaf_sdk.finetuning.totals import Totals
from genaf_sdk.model import inference_mode_of
from genaf_sdk.progress import make_display
from genaf_sdk.tracking import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from accelerate import Accelerator

    from genaf_sdk.data import LabelledImages
    from genaf_sdk.finetuning.adversary import Adversary

EVALUATION_BATCH = 512
logger = logging.getLogger(__name__)


@dataclass
class Run:
    """What a run carries from stage to stage.

    Args:
        accelerator: Device, precision and processes.
        seed: Of every random choice.
        checkpoints: Where the run goes on from if it has to; by default none are kept.
        show_progress: Whether to show progress; None decides by whether somebody watches. See ``make_display``.
        sync_batch_norm: Whether batch norm uses the global batch of all processes.
        non_finite: What to do with a step whose loss or gradient is NaN or infinite.
        termination: Whether somebody asked the run to end.
        history: One record an epoch: stage, epoch, mean losses, accuracies, seconds.
        metrics: Is told every record.
    """

    accelerator: Accelerator
    seed: int = 0
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    show_progress: bool | None = None
    sync_batch_norm: bool = True
    non_finite: Literal["stop", "skip"] = "stop"
    termination: Termination = field(default_factory=Termination)
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.processes = Processes.of(self.accelerator)
        self.progress = make_display(self.show_progress, speaks=self.accelerator.is_main_process)

    def announce(self, stage: str) -> Callable[[str], None]:
        """Return a function that shows a line of text under ``stage`` in the progress bar."""
        task = self.progress.add_task(stage, total=None, figures="")

        def show(text: str) -> None:
            self.progress.update(task, figures=text)

        return show


@dataclass(frozen=True)
class Step:
    """What one batch gives: the loss to descend, named parts of it for the log, and how many images were right.

    Loss and parts are this process's parts of means over the global batch (``Batch.mean``).
    """

    loss: Tensor
    parts: dict[str, Tensor]
    correct: Tensor


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a stage trains a model.

    Args:
        stage: Name in the history, the progress bar, checkpoints and errors.
        epochs: Passes over the images.
        batch_size: Over all processes.
        optimizers: All are stepped after every batch.
        schedule: Factor on the learning rates, from the share of the training that is done, in [0, 1).
        step: Computes the loss of a batch, or of a piece of one where memory is short.
        adversary: Learns from every step, and is kept in checkpoints.
        validate: Called after every epoch; what it returns is recorded.
        train_mode: Puts the model into training mode.
    """

    stage: str
    epochs: int
    batch_size: int
    optimizers: Sequence[torch.optim.Optimizer]
    schedule: Callable[[float], float]
    step: Callable[[nn.Module, Batch], Step]
    adversary: Adversary | None = None
    validate: Callable[[], dict[str, float]] = dict
    train_mode: Callable[[nn.Module], object] = nn.Module.train


def fit(run: Run, model: nn.Module, images: LabelledImages, training: Training) -> None:
    """Train ``model`` in place, from the stage's last checkpoint on if the run has one.

    Args:
        run: Device, seed, checkpoints, history, progress.
        model: What the accelerator prepares; ``training.step`` receives the prepared one.
        images: Training images.
        training: The stage.

    Raises:
        TrainingError: A loss or weight is no longer finite, memory does not even suffice for two images, or another
            process is gone.
        OutputError: A checkpoint cannot be written.
        RunStoppedError: SIGTERM came; the step was finished and saved.
    """
    with (
        run.termination.training(),
        peers_alive(run.processes),
        globally(model, run.processes, sync_batch_norm=run.sync_batch_norm) as current,
    ):
        fitting = _Fitting(run, model, images, training)
        fitting.restore()
        task = run.progress.add_task(training.stage, total=fitting.total, completed=fitting.done, figures="")
        while fitting.done < fitting.total:
            for batch in fitting.batches():
                fitting.descend(batch, current)
                name = f"{training.stage} {fitting.epoch + 1}/{training.epochs}"
                run.progress.update(task, completed=fitting.done, description=name, figures=fitting.totals.text)
                if fitting.is_inside_an_epoch and fitting.must_stop():
                    fitting.stop()
            current.batch = None
            fitting.end_epoch()
            if fitting.must_stop():
                fitting.stop()
        run.progress.remove_task(task)
        fitting.release()


class _Fitting:
    """A stage in progress: the prepared model, and where it stands."""

    def __init__(self, run: Run, model: nn.Module, images: LabelledImages, training: Training) -> None:
        self.run, self.model, self.training = run, model, training
        key = key_of(run.seed, training.stage)
        self.epochs = Epochs(images, training.batch_size, key, run.processes)
        self.total, self.done = training.epochs * self.epochs.steps, 0
        self.pieces = 1
        self.skipped = 0
        self.totals = Totals(training.stage, 0, run.processes)
        self.first_record = len(run.history)
        self.prepared, *self.optimizers = run.accelerator.prepare(model, *training.optimizers)
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.started = time.monotonic()

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next step belongs to; of the last one where all are done."""
        return min(self.done // self.epochs.steps, self.training.epochs - 1)

    @property
    def is_inside_an_epoch(self) -> bool:
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

        def undo() -> None:
            self._begin()
            for buffer, before in buffers:
                buffer.copy_(before)

        self._begin()
        sums, self.pieces = within_memory(partial(self._backward, current), batch, self.pieces, undo)
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

    def _backward(self, current: CurrentBatch, pieces: list[Batch]) -> dict[str, Tensor]:
        """Add the gradients of all pieces up, and return sums over their images."""
        sums: dict[str, Tensor] = {}
        for piece in pieces:
            current.batch = piece
            step = self.training.step(self.prepared, piece)
            self.run.accelerator.backward(step.loss)
            share = piece.total / self.run.processes.count  # from parts of means over the global batch to sums
            found = {name: value.detach() * share for name, value in {"loss": step.loss, **step.parts}.items()}
            for name, value in {**found, "train_accuracy": step.correct}.items():
                sums[name] = sums[name] + value if name in sums else value
        return sums

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

    def end_epoch(self) -> None:
        """Record the epoch that was completed, and save."""
        run = self.run
        epoch = self.done // self.epochs.steps
        record = {"stage": self.training.stage, "epoch": epoch, **self.totals.means(), **self.training.validate()}
        record |= {"skipped_steps": self.skipped} if self.skipped else {}
        now = time.monotonic()
        run.history.append({**record, "seconds": round(now - self.started, 3)})
        run.metrics.epoch(run.history)
        self.started = now
        self.totals = Totals(self.training.stage, self.epoch, run.processes)
        self.save()

    def release(self) -> None:
        """Have the accelerator forget what it prepared, so that a later stage may prepare the same weights."""
        accelerator = self.run.accelerator
        for kept, own in ((accelerator._models, [self.prepared]), (accelerator._optimizers, self.optimizers)):
            kept[:] = [thing for thing in kept if not any(thing is mine for mine in own)]


def cosine(done: float) -> float:
    """Learning-rate factor: linear warm-up over a twentieth of the training, then a cosine to zero."""
    warm_up = 0.05
    if done < warm_up:
        return max(done / warm_up, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def exponential(epochs: int) -> Callable[[float], float]:
    """Learning-rate factor of the paper: 0.96 an epoch."""
    return lambda done: 0.96 ** math.floor(done * epochs + 1e-9)


def batches(images: LabelledImages, size: int = EVALUATION_BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every image once, in order."""
    for start in range(0, len(images), size):
        yield images.__getitems__(range(start, min(start + size, len(images))))


@torch.no_grad()
def accuracy(model: nn.Module, images: LabelledImages, device: torch.device, processes: Processes = ALONE) -> float:
    """Return the share of ``images`` that ``model`` (pixels to logits) gets right: an exact count.

    Several processes take every so many-th batch each; all have to call this.
    """
    right = torch.zeros((), dtype=torch.int64, device=device)
    with inference_mode_of(model):
        for number, (x, y) in enumerate(batches(images)):
            if number % processes.count == processes.index:
                right += (model(x.to(device)).argmax(1) == y.to(device)).sum()
    return int(processes.sum(right)) / len(images)
