"""A stage of training in progress: the prepared model, its steps, and where it stands."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

import torch

from genaf_sdk.engine.accuracy import accuracy
from genaf_sdk.engine.backward import backward
from genaf_sdk.engine.batches import Batch, GlobalBatches, augmented_batch
from genaf_sdk.engine.checkpoints import Checkpoint
from genaf_sdk.engine.cost import Spent
from genaf_sdk.engine.faults import all_finite, free_memory, halved_micro_batches, require_finite
from genaf_sdk.engine.metrics import EpochMetrics
from genaf_sdk.engine.randomness import random_key
from genaf_sdk.engine.sharding import in_precision, local, make_ready
from genaf_sdk.engine.state import gather_state, restore_state
from genaf_sdk.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from genaf_sdk.data import DataSplits
    from genaf_sdk.engine.modules import CurrentBatch
    from genaf_sdk.engine.run import Run
    from genaf_sdk.engine.stage import Stage, Views
    from genaf_sdk.engine.views import FeaturesAndLogits

logger = logging.getLogger(__name__)


class Fitting:
    """A stage in progress: the prepared model, and where it stands.

    Args:
        run: Device, processes, checkpoints, history.
        model: What is trained: inputs to features and logits.
        attacked: The classifier, inputs to logits, as views and validation call it.
        data: Training and validation images.
        stage: What is trained.
    """

    def __init__(self, run: Run, model: FeaturesAndLogits, attacked: nn.Module, data: DataSplits, stage: Stage) -> None:
        self.run, self.model, self.attacked, self.data, self.stage = run, model, attacked, data, stage
        images = data.train
        self.global_batches = GlobalBatches(
            images, stage.schedule.batch(len(images)), random_key(run.seed, stage.name), run.processes
        )
        steps = self.global_batches.steps
        share = math.ceil(len(images) / steps / run.processes.count)  # most rows of a process in a batch
        self.total, self.done = stage.schedule.epochs * steps, 0
        self.micro_batches = math.ceil(share / (run.machine.micro_batch_size or share))
        self.skipped = 0
        self.metrics = EpochMetrics(stage.name, 0, run.processes)
        if run.accelerator.is_fsdp2:
            make_ready(model, run.accelerator)
        self.own_optimizers = optimizers_of(model, stage)
        if not self.own_optimizers:
            raise TrainingError(
                f"{stage.name} trains no parameter at all.",
                expected="at least one that is not frozen",
                remedy="look at what is frozen (requires_grad, tuning), and at the method's stages",
            )
        with run.turns:  # another thread's training may have the same accelerator
            self.prepared, *self.optimizers = run.accelerator.prepare(model, *self.own_optimizers)
        self.forward = in_precision(self.prepared, run.accelerator) if run.accelerator.is_fsdp2 else self.prepared
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.started, self.began = time.monotonic(), Spent.until_now()

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next step belongs to; of the last one where all are done."""
        return min(self.done // self.global_batches.steps, self.stage.schedule.epochs - 1)

    @property
    def is_inside_an_epoch(self) -> bool:
        """Whether part of an epoch is done."""
        return self.done % self.global_batches.steps > 0

    @property
    def trains_the_encoder(self) -> bool:
        """Whether any parameter of the encoder is trained."""
        return any(group["part"] == "encoder" for optimizer in self.optimizers for group in optimizer.param_groups)

    @property
    def records(self) -> list[dict[str, Any]]:
        """What the history has of this stage; another one may be under way in another thread."""
        with self.run.turns:
            return [record for record in self.run.history if record["stage"] == self.stage.name]

    def restore(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        checkpoint = self.run.checkpoints.latest(self.stage.name)
        if checkpoint is None:
            return
        restore_state(checkpoint, self.model, self.own_optimizers, self.stage.memory, self.run.accelerator)
        metadata, name = checkpoint.metadata, self.stage.name
        self.done, self.micro_batches, self.skipped = checkpoint.step, metadata["micro_batches"], metadata["skipped"]
        with self.run.turns:
            others = [record for record in self.run.history if record["stage"] != name]
            self.run.history[:] = [*others, *metadata["history"]]
        self.metrics = EpochMetrics(name, self.epoch, self.run.processes, metadata["sums"])
        self.started -= metadata["seconds"]
        seconds = sum(record["seconds"] for record in metadata["history"]) + metadata["seconds"]
        self.run.earlier[name] = Spent(seconds, metadata["cpu_seconds"])
        self.began -= self.run.earlier[name]

    def save(self) -> None:
        """Write a checkpoint of finite weights.

        Raises:
            TrainingError: A weight is NaN or infinite.
            OutputError: It cannot be written.
        """
        self.metrics.read()
        require_finite(self.model, self.stage.name, self.done, self.run.processes)
        accelerator = self.run.accelerator
        tensors, metadata = gather_state(self.model, self.own_optimizers, self.stage.memory, accelerator)
        metadata |= {
            "micro_batches": self.micro_batches,
            "skipped": self.skipped,
            "history": self.records,
            "sums": self.metrics.sums,
            "seconds": time.monotonic() - self.started,
            "cpu_seconds": (Spent.until_now() - self.began).cpu_seconds,
            "processes": self.run.processes.count,
        }
        self.run.checkpoints.save(self.stage.name, Checkpoint(self.done, tensors, metadata))

    def batches(self) -> Iterator[Batch]:
        """Yield what is left of the epoch."""
        self.stage.train_mode(self.model)
        first = self.done % self.global_batches.steps
        return self.global_batches.batches(self.epoch, first, self.run.accelerator.device)

    def trial_step(self, batch: Batch, current: CurrentBatch, encoder_rate: float, factor: float) -> float:
        """Take a step and return the loss before it; ``go_back`` undoes it.

        Args:
            batch: A global batch.
            current: As in training.
            encoder_rate: Learning rate of the encoder.
            factor: What the head's is multiplied by.
        """
        self.set_encoder_rate(encoder_rate / factor)
        self.training_step(batch, current, factor)
        pending, self.metrics.pending = self.metrics.pending, []
        own = [torch.stack([sums["loss"].float(), sums["images"].float()]) for _, sums in pending]
        if not own:  # a step that was skipped
            return math.inf
        loss, images = self.run.processes.all_reduce(own[0]).tolist()
        return float(loss / images)

    def set_encoder_rate(self, rate: float) -> None:
        """Have the encoder learn at ``rate``, times the factor of the schedule."""
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            rates[:] = [
                rate if group["part"] == "encoder" else known
                for group, known in zip(optimizer.param_groups, rates, strict=True)
            ]

    def here(self) -> Checkpoint:
        """Return a copy of where the stage stands."""
        tensors, metadata = gather_state(self.model, self.own_optimizers, self.stage.memory, self.run.accelerator)
        return Checkpoint(self.done, {name: value.clone() for name, value in tensors.items()}, metadata)

    def go_back(self, before: Checkpoint) -> None:
        """Undo trial steps, the first of which was taken at ``before``."""
        restore_state(before, self.model, self.own_optimizers, self.stage.memory, self.run.accelerator)
        self.done, self.skipped = before.step, 0

    def training_step(self, batch: Batch, current: CurrentBatch, factor: float | None = None) -> None:
        """Take one step down the mean loss of a global batch; in smaller micro-batches if memory runs out.

        Views are made before any micro-batch crosses the network, so that all are attacked on the same statistics.

        Args:
            batch: A global batch.
            current: Is told which micro-batch crosses the network.
            factor: What the learning rates are multiplied by; None is what the schedule says.
        """
        run, stage, schedule = self.run, self.stage, self.stage.schedule
        self._set_learning_rates(schedule.factor(self.done / self.total) if factor is None else factor)
        if run.seeds_torch:
            torch.manual_seed(random_key(batch.key, "torch", run.processes.index))  # for layers that draw by themselves
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        fewest = batch.total // run.processes.count  # rows of a process: all cut alike, into pairs at least

        def rewind() -> None:
            for buffer, before in buffers:
                buffer.copy_(before)

        def undo() -> None:
            self._begin()
            rewind()

        while True:
            self._begin()
            try:
                micro_batches: list[Batch] = []
                views: list[Views] = []
                for micro_batch in batch.split(min(self.micro_batches, max(1, fewest // 2))):
                    micro_batches.append(augmented_batch(micro_batch, schedule.shift, schedule.augmentation))
                    with run.accelerator.autocast():
                        views.append(stage.views(self.attacked, micro_batches[-1]))
                sums = backward(stage, self.forward, run.accelerator, micro_batches, views, current, rewind)
                break
            except RuntimeError as error:
                self.micro_batches = halved_micro_batches(error, batch, self.micro_batches)
                run.machine = run.machine.with_(micro_batch_size=math.ceil(len(batch.rows) / self.micro_batches))
            del micro_batches, views  # outside of the handler, whose traceback keeps the step's tensors alive
            undo()
            free_memory(self.micro_batches)
        self.done += 1
        if run.machine.non_finite == "skip" and not self._is_finite(sums["loss"]):
            self._skip(undo)
        else:
            self._descend(len(batch.rows), sums)

    def _set_learning_rates(self, factor: float) -> None:
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def _descend(self, rows: int, sums: dict[str, Tensor]) -> None:
        scaler = self.run.accelerator.scaler
        if self.stage.memory is not None:
            self.stage.memory.update(1.0 if scaler is None else scaler.get_scale())
        if scaler is None:
            for optimizer in self.optimizers:
                optimizer.step()
        else:  # as torch has it for several; accelerate's own step changes the scale before the next one's turn
            for own in self.own_optimizers:
                scaler.step(own)
            scaler.update()
        self.metrics.add(self.done, rows, sums)
        if self.metrics.is_due:
            self.metrics.read()

    def _begin(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        if self.stage.memory is not None:
            self.stage.memory.begin(self.done / self.total)

    def _is_finite(self, loss: Tensor) -> bool:
        """Return whether a step's loss and gradient are finite on every process; waits for the device.

        Under fp16 the loss alone counts: gradients that overflow are passed over by the scaler, which has to see them.
        """
        run = self.run
        weights = self.model.parameters() if run.accelerator.scaler is None else ()
        gradients = [local(weight.grad) for weight in weights if weight.grad is not None]
        return not run.processes.any(not bool(all_finite([loss, *gradients])))

    def _skip(self, undo: Callable[[], None]) -> None:
        undo()
        require_finite(self.model, self.stage.name, self.done, self.run.processes)
        self.skipped += 1
        logger.warning("Step %d of %s was skipped: its loss or gradient is not finite.", self.done, self.stage.name)
        if self.skipped > max(1, self.total // 10):
            raise TrainingError(
                f"{self.skipped} of {self.done} steps of {self.stage.name} had a loss or gradient that is not "
                "finite; a tenth of all steps at most is skipped.",
                remedy="lower the learning rates, use mixed_precision='no', or look at the images",
            )

    def must_stop(self) -> bool:
        """Return whether SIGTERM came to any process; several agree on it where they read the losses anyway."""
        processes = self.run.processes
        if processes.count > 1 and self.is_inside_an_epoch and self.metrics.pending:
            return False
        return processes.any(self.run.termination.asked)

    def stop(self) -> None:
        """Save, unless the end of an epoch just did, and end the run.

        Raises:
            RunStoppedError: Always.
        """
        if self.is_inside_an_epoch:
            self.save()
        self.run.processes.any(True)  # nobody leaves before the first process has written
        raise self.run.termination.stopped()

    def end_epoch(self) -> str:
        """Record the epoch that was completed, save, and return its figures as text."""
        run = self.run
        epoch = self.done // self.global_batches.steps
        run.processes.hand_out(self.model.buffers())  # statistics that are not synchronized are each process's own
        validation = {
            "validation_accuracy": accuracy(self.attacked, self.data.validation, run.accelerator.device, run.processes)
        }
        record = {"stage": self.stage.name, "epoch": epoch, **self.metrics.means(), **validation}
        text = " ".join([self.metrics.text, *(f"{name} {value:.3f}" for name, value in validation.items())])
        record |= {"skipped_steps": self.skipped} if self.skipped else {}
        now = time.monotonic()
        record["seconds"], self.started = round(now - self.started, 3), now
        with run.turns:
            run.history.append(record)
            run.metrics.ended += 1
        self.metrics = EpochMetrics(self.stage.name, self.epoch, run.processes)
        self.save()  # before anybody is told: a tracker that fails costs no epoch
        run.processes.together(lambda: self._tell(record))
        return text

    def _tell(self, record: dict[str, Any]) -> None:
        with self.run.turns:
            self.run.metrics.epoch(self.run.history, record)

    def release(self) -> None:
        """Have the accelerator forget what it prepared, so that a later stage may prepare the same weights."""
        accelerator = self.run.accelerator
        with self.run.turns:
            for kept, own in ((accelerator._models, [self.prepared]), (accelerator._optimizers, self.optimizers)):
                kept[:] = [thing for thing in kept if not any(thing is mine for mine in own)]


def optimizers_of(model: FeaturesAndLogits, stage: Stage) -> list[torch.optim.Optimizer]:
    """Return one Adam for the encoder and one for the head, as far as they have parameters that the stage trains.

    On a processor one kernel updates a whole tensor: a step of a small network is 2 to 3 % shorter for it.
    """
    schedule, decay = stage.schedule, stage.schedule.weight_decay
    size = sum(parameter.numel() for parameter in model.encoder.parameters())
    rates = {"encoder": schedule.encoder_rate(size), "head": schedule.head_learning_rate}
    parts = {
        part: [p for n, p in model.get_submodule(part).named_parameters() if stage.trains(f"{part}.{n}")]
        for part in rates
    }
    return [
        torch.optim.Adam(
            [{"params": parameters, "part": part}], rates[part], weight_decay=decay, fused=_can_be_fused(parameters)
        )
        for part, parameters in parts.items()
        if parameters
    ]


def _can_be_fused(parameters: list[nn.Parameter]) -> bool:
    return all(type(p.data) is torch.Tensor and p.device.type == "cpu" and p.is_floating_point() for p in parameters)
