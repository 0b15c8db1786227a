"""Stage 2: evolutionary adaptability fine-tuning of the robust redundant layers on clean data (paper, stage 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from genaf_sdk.engine.batches import varied
from genaf_sdk.engine.stage import Run, Tracked, Training, cosine
from genaf_sdk.engine.train import accuracy, fit
from genaf_sdk.methods.adversary import ascend
from genaf_sdk.methods.gen_af import Shared, Tracks, cross_entropy_step, validation_accuracy
from genaf_sdk.models.modes import inference_mode_of

if TYPE_CHECKING:
    from genaf_sdk.config import HardenConfig
    from genaf_sdk.data import DataSplits
    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.models.classifier import HardenedModel

GUARD_IMAGES = 512
GUARD_STEPS = 10


@dataclass(frozen=True)
class GuardPoint:
    """One point between the stage-1 weights (share 0) and the fine-tuned ones (share 1), on validation images."""

    share: float
    clean_accuracy: float
    universal_accuracy: float
    """Worst over the universal perturbations of stage 1; 1 where it kept none."""
    sample_wise_accuracy: float


@dataclass(frozen=True)
class Adaptation:
    """What stage 2 did: the layers it trained, every point that the guard measured, and the share it kept."""

    layers: list[str]
    points: list[GuardPoint]
    share: float


def adaptability_finetuning(
    run: Run,
    model: HardenedModel,
    data: DataSplits,
    config: HardenConfig,
    layers: list[str],
    perturbations: Tensor | None,
) -> Adaptation:
    """Fine-tune ``layers`` of ``model`` on clean data, then step back as far as robustness asks for.

    All other parameters are frozen and every normalisation layer stays in eval mode. The guard (from RiFT) interpolates
    between the weights before and after and keeps the best clean validation accuracy among the points whose robust
    validation accuracy, under universal and under sample-wise perturbations, is not below stage 1's by more than
    ``config.adaptability.tolerance``. Of equal points the one nearest to stage 1 is kept.

    Args:
        run: Device, seed, history, progress.
        model: The classifier after stage 1.
        data: Training and validation images.
        config: Settings of the whole run.
        layers: Names of the weights to train.
        perturbations: Universal perturbations (K, C, H, W) that the guard replays, or None.

    Raises:
        TrainingError: A loss is no longer finite.
    """
    settings = config.adaptability
    trained = {name: model.get_parameter(name) for name in layers}
    before = {name: weight.detach().clone() for name, weight in trained.items()}
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)

    tracks = Tracks(model)
    classifier = Shared(tracks) if run.accelerator.is_fsdp2 else model

    def inputs(batch: Batch) -> Tracked:
        return (varied(batch, config.dual_track.shift, config.dual_track.augmentation).pixels,)

    training = Training(
        stage="stage 2",
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        optimizers=[torch.optim.Adam(trained.values(), settings.learning_rate, weight_decay=settings.weight_decay)],
        schedule=cosine,
        inputs=inputs,
        loss=cross_entropy_step,
        validate=lambda: validation_accuracy(run, classifier, data),
        train_mode=_only_dropout_trains,
    )
    try:
        whole = fit(run, tracks, data.train, training)
        model.encoder, model.head = whole.encoder, whole.head
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(required[name])
    model.eval()
    trained = {name: model.get_parameter(name) for name in layers}
    after = {name: weight.detach().clone() for name, weight in trained.items()}
    points = []
    for index in range(settings.interpolations + 1):
        share = index / settings.interpolations
        _interpolate(trained, before, after, share)
        points.append(measure_guard(run, model, data, config, share, perturbations))
    chosen = run.processes.from_first(choose(points, settings.tolerance))
    _interpolate(trained, before, after, chosen.share)
    return Adaptation(layers, points, chosen.share)


def choose(points: list[GuardPoint], tolerance: float) -> GuardPoint:
    """Return the point of best clean accuracy among those that keep stage 1's (the first point's) robustness."""
    first = points[0]
    kept = [
        point
        for point in points
        if point.universal_accuracy >= first.universal_accuracy - tolerance
        and point.sample_wise_accuracy >= first.sample_wise_accuracy - tolerance
    ]
    return max(kept, key=lambda point: (point.clean_accuracy, -point.share))


def measure_guard(
    run: Run, model: HardenedModel, data: DataSplits, config: HardenConfig, share: float, perturbations: Tensor | None
) -> GuardPoint:
    """Measure clean accuracy on all validation images, robust accuracies on up to ``GUARD_IMAGES`` of them."""
    device = run.accelerator.device
    clean = accuracy(model, data.validation, device, run.processes)
    pixels, labels = (tensor.to(device) for tensor in data.validation.head(GUARD_IMAGES, seed=config.seed))
    universal = 1.0
    with inference_mode_of(model), torch.no_grad():
        for perturbation in perturbations if perturbations is not None else ():
            right = model((pixels + perturbation).clamp(0, 1)).argmax(1) == labels
            universal = min(universal, float(right.float().mean()))
        budget = config.evaluation.sample_wise_budget
        with run.accelerator.autocast():  # to find the images; they are scored in float32, as they are deployed
            adversarial, _ = ascend(model, pixels, labels, torch.zeros_like(pixels), budget, budget / 4, GUARD_STEPS)
        sample_wise = float((model(adversarial).argmax(1) == labels).float().mean())
    return GuardPoint(share, clean, universal, sample_wise)


@torch.no_grad()
def _interpolate(
    weights: dict[str, nn.Parameter], before: dict[str, Tensor], after: dict[str, Tensor], share: float
) -> None:
    for name, weight in weights.items():
        weight.copy_(torch.lerp(before[name], after[name], share))


def _only_dropout_trains(model: nn.Module) -> None:
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
