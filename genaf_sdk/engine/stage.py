"""What a stage of training is made of: the run it belongs to, its images and losses, its schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from genaf_sdk.engine.checkpoints import Checkpoints
from genaf_sdk.engine.processes import Processes
from genaf_sdk.engine.termination import Termination
from genaf_sdk.engine.tracking import Metrics
from genaf_sdk.progress import make_display

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from accelerate import Accelerator

    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.methods.adversary import Adversary

Tracked = tuple[Tensor, ...]
"""A tensor for each track: (adversarial, benign), or one of them."""


@dataclass
class Run:
    """What a run carries from stage to stage.

    Args:
        accelerator: Device, precision and processes.
        seed: Of every random choice.
        checkpoints: Where the run goes on from if it has to; by default none are kept.
        show_progress: Whether to show progress; None decides by whether somebody watches. See ``make_display``.
        sync_batch_norm: Whether batch norm uses the global batch of all processes.
        micro_batch_size: Most images that are attacked and trained on at once; None: all that this process has.
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
    micro_batch_size: int | None = None
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
        inputs: Returns the images of every track, (n, C, H, W) each, for a batch or a piece of one.
        loss: Returns the loss of a batch, or of a piece of one, from features (n, D) and logits (n, K) of every track.
        compares_images: Whether the loss compares images of a batch with one another, and so needs all of them.
        adversary: Learns from every step, and is kept in checkpoints.
        validate: Called after every epoch; what it returns is recorded.
        train_mode: Puts the model into training mode.
    """

    stage: str
    epochs: int
    batch_size: int
    optimizers: Sequence[torch.optim.Optimizer]
    schedule: Callable[[float], float]
    inputs: Callable[[Batch], Tracked]
    loss: Callable[[Tracked, Tracked, Batch], Step]
    compares_images: bool = False
    adversary: Adversary | None = None
    validate: Callable[[], dict[str, float]] = dict
    train_mode: Callable[[nn.Module], object] = nn.Module.train


def cosine(done: float) -> float:
    """Learning-rate factor: linear warm-up over a twentieth of the training, then a cosine to zero."""
    warm_up = 0.05
    if done < warm_up:
        return max(done / warm_up, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def exponential(epochs: int) -> Callable[[float], float]:
    """Learning-rate factor of the paper: 0.96 an epoch."""
    return lambda done: 0.96 ** math.floor(done * epochs + 1e-9)
