"""The training loop that every stage and baseline shares: batches, optimizers, checkpoints, faults, progress."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from genaf_sdk.engine.fitting import Fitting
from genaf_sdk.engine.modules import globally
from genaf_sdk.engine.processes import ALONE, Processes, peers_alive
from genaf_sdk.engine.sharding import Model, made_whole
from genaf_sdk.models.modes import inference_mode_of

if TYPE_CHECKING:
    from genaf_sdk.data import LabelledImages
    from genaf_sdk.engine.stage import Run, Training

EVALUATION_BATCH = 512


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
