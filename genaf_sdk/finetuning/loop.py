"""The training loop that every stage and baseline shares: batches, optimizers, checkpoints, faults, progress."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from genaf_sdk.finetuning.checkpoints import Checkpoints
from genaf_sdk.finetuning.fitting import Fitting
from genaf_sdk.finetuning.modules import globally
from genaf_sdk.finetuning.processes import ALONE, Processes, peers_alive
from genaf_sdk.finetuning.sharding import Model, made_whole
from genaf_sdk.finetuning.termination import Termination
from genaf_sdk.model import inference_mode_of
from genaf_sdk.progress import make_display
from genaf_sdk.tracking import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from accelerate import Accelerator

    from genaf_sdk.data import LabelledImages
    from genaf_sdk.finetuning.adversary import Adversary
    from genaf_sdk.finetuning.batches import Batch

EVALUATION_BATCH = 512
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


def fit(run: Run, model: Model, images: LabelledImages, training: Training) -> Model:
    """Train ``model``, from the stage's last checkpoint on if the run has one.

    Args:
        run: Device, seed, checkpoints, history, progress.
        model: What the accelerator prepares: pixels to features and logits.
        images: Training images.
        training: The stage.

    Returns:
        ``model``, trained in place; or a whole copy of it where the accelerator shared its weights out (FSDP2).

    Raises:
        TrainingError: A loss or weight is no longer finite, memory does not even suffice for two images, or another
            process is gone.
        OutputError: A checkpoint cannot be written.
        RunStoppedError: SIGTERM came; the step was finished and saved.
    """
    untouched = copy.deepcopy(model).cpu() if run.accelerator.is_fsdp2 else None
    with (
        run.termination.training(),
        peers_alive(run.processes),
        globally(model, run.processes, sync_batch_norm=run.sync_batch_norm) as current,
    ):
        fitting = Fitting(run, model, images, training)
        fitting.restore()
        task = run.progress.add_task(training.stage, total=fitting.total, completed=fitting.done, figures="")
        figures = ""
        while fitting.done < fitting.total:
            name = f"{training.stage} {fitting.epoch + 1}/{training.epochs}"
            for batch in fitting.batches():
                fitting.descend(batch, current)
                figures = fitting.totals.text or figures
                run.progress.update(task, completed=fitting.done, description=name, figures=figures)
                if fitting.is_inside_an_epoch and fitting.must_stop():
                    fitting.stop()
            current.batch = None
            figures = fitting.end_epoch()
            run.progress.update(task, description=name, figures=figures)
            if fitting.must_stop():
                fitting.stop()
        run.progress.remove_task(task)
        fitting.release()
    return model if untouched is None else made_whole(model, untouched, run.accelerator.device)


def cosine(done: float) -> float:
    """Learning-rate factor: linear warm-up over a twentieth of the training, then a cosine to zero."""
    warm_up = 0.05
    if done < warm_up:
        return max(done / warm_up, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def exponential(epochs: int) -> Callable[[float], float]:
    """Learning-rate factor of the paper: 0.96 an epoch."""
    return lambda done: 0.96 ** math.floor(done * epochs + 1e-9)


@torch.no_grad()
def accuracy(model: nn.Module, images: LabelledImages, device: torch.device, processes: Processes = ALONE) -> float:
    """Return the share of ``images`` that ``model`` (pixels to logits) gets right: an exact count.

    Several processes take every so many-th image each; all have to call this, and all call ``model`` equally often.
    """
    right = torch.zeros((), dtype=torch.int64, device=device)
    with inference_mode_of(model):
        for start in range(0, len(images), EVALUATION_BATCH * processes.count):
            rows = range(len(images))[start : start + EVALUATION_BATCH * processes.count]
            own = rows[processes.index :: processes.count]
            x, y = images.__getitems__(own or rows[:1])
            hits = model(x.to(device)).argmax(1) == y.to(device)
            right += hits[: len(own)].sum()
    return int(processes.sum(right)) / len(images)
