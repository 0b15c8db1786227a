"""train(): one stage, from its first batch or its last checkpoint to trained weights."""

from __future__ import annotations

import copy
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

from genaf_sdk.engine.activations import recomputed, recomputed_activations
from genaf_sdk.engine.fitting import Fitting
from genaf_sdk.engine.modules import synchronized_layers
from genaf_sdk.engine.processes import peers_alive
from genaf_sdk.engine.range_test import range_test
from genaf_sdk.engine.run import RangeTest
from genaf_sdk.engine.sharding import ShardedClassifier, unsharded
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.models.modes import inference_mode_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from genaf_sdk.data import DataSplits
    from genaf_sdk.engine.run import Run
    from genaf_sdk.engine.stage import Stage
    from genaf_sdk.models.classifier import Classifier


def train(run: Run, model: Classifier, data: DataSplits, stage: Stage) -> None:
    """Train ``model`` in place, each of encoder and head with an optimizer of its own.

    Args:
        run: Device, seed, checkpoints, history, progress.
        model: The classifier; in eval mode afterwards, on the accelerator's device.
        data: Training images; validation images, on which accuracy is recorded after every epoch.
        stage: What is trained, on what, how long.

    Raises:
        ConfigError: Activations are to be computed again in a model that is shared out, which accelerate does.
        TrainingError: A loss or weight is no longer finite, memory does not even suffice for two images, or another
            process is gone.
        OutputError: A checkpoint cannot be written.
        RunStoppedError: SIGTERM came; the step was finished and saved.
    """
    data.space.placed(model.to(run.accelerator.device))
    both, sharded = FeaturesAndLogits(model), run.accelerator.is_fsdp2
    attacked: nn.Module = ShardedClassifier(both) if sharded else model
    untouched = copy.deepcopy(both).cpu() if sharded else None
    with (
        ExitStack() as ending,
        run.termination.training(),
        peers_alive(run.processes),
        gradients_of(model, stage),
        recomputed_activations(model, recomputed(run)),
        synchronized_layers(both, run.processes, sync_batch_norm=run.machine.sync_batch_norm) as current,
    ):
        if run.processes.count > 1 and not sharded:
            leave_out_unused(both, data.train.sample(2, seed=run.seed)[0].to(run.accelerator.device))
        fitting = Fitting(run, both, attacked, data, stage)
        ending.callback(fitting.release)  # also where training fails: the accelerator may be the caller's
        fitting.restore()
        if stage.schedule.encoder_learning_rate == "auto" and fitting.trains_the_encoder:
            found = run.once(f"range test of {stage.name}", lambda: range_test(fitting, current).to_dict())
            run.range_tests[stage.name] = RangeTest(**found)
            fitting.set_encoder_rate(found["chosen"])
        task = run.progress.add_task(stage.name, total=fitting.total, completed=fitting.done, figures="")
        figures = ""
        while fitting.done < fitting.total:
            name = f"{stage.name} {fitting.epoch + 1}/{stage.schedule.epochs}"
            for batch in fitting.batches():
                fitting.training_step(batch, current)
                figures = fitting.metrics.text or figures
                run.progress.update(task, completed=fitting.done, description=name, figures=figures)
                if fitting.is_inside_an_epoch and fitting.must_stop():
                    fitting.stop()
            current.batch = None
            figures = fitting.end_epoch()
            run.progress.update(task, description=name, figures=figures)
            if fitting.must_stop():
                fitting.stop()
        run.progress.remove_task(task)
    trained = both if untouched is None else unsharded(both, untouched, run.accelerator.device)
    model.encoder, model.head = trained.encoder, trained.head
    model.eval()


@contextmanager
def gradients_of(model: nn.Module, stage: Stage) -> Iterator[None]:
    """Context: only what the stage trains requires gradients; as before afterwards."""
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(stage.trains(name))
    try:
        yield
    finally:
        for parameter, before in required:
            parameter.requires_grad_(before)


def leave_out_unused(model: FeaturesAndLogits, inputs: Tensor) -> None:
    """Let no parameter require a gradient that features and logits do not depend on, such as an unused pooler's.

    Data parallelism waits for every gradient that is required, and exchanges none of those that it has meanwhile.

    Args:
        model: Inputs to features and logits.
        inputs: A few valid ones, (n, *shape).
    """
    required = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with inference_mode_of(model), torch.enable_grad():
        features, logits = model(inputs)
    gradients = torch.autograd.grad(features.sum() + logits.sum(), required, allow_unused=True)
    for parameter, gradient in zip(required, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
