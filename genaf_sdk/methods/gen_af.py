"""Stage 1: genetic-directed dual-track adversarial fine-tuning (paper, stage 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.engine.batches import Batch, varied
from genaf_sdk.engine.randomness import key_of
from genaf_sdk.engine.stage import Run, Step, Tracked, Training, cosine, exponential
from genaf_sdk.engine.train import accuracy, fit
from genaf_sdk.methods.adversary import ADVERSARIES, Adversary
from genaf_sdk.methods.baselines import mart_loss, trades_loss
from genaf_sdk.methods.genetic import genetic_regularization

if TYPE_CHECKING:
    from genaf_sdk.config import DualTrackConfig
    from genaf_sdk.data import DataSplits
    from genaf_sdk.models.classifier import HardenedModel


class Tracks(nn.Module):
    """The classifier as training needs it: features and logits of one pass.

    The accelerator prepares this module, which may put its forward pass in a lower precision for good. The classifier
    itself stays the float32 function that is measured and deployed.
    """

    def __init__(self, model: HardenedModel) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels (N, C, H, W) to features (N, D) and logits (N, K)."""
        features = self.encoder(pixels)
        return features, self.head(features)


class Shared(nn.Module):
    """The classifier as attacks call it while its weights are shared out (FSDP2): by way of what gathers them."""

    def __init__(self, tracks: Tracks) -> None:
        super().__init__()
        self.tracks = tracks

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, C, H, W) to logits (N, K)."""
        logits: Tensor = self.tracks(pixels)[1]
        return logits


def dual_track_loss(
    features: tuple[Tensor, Tensor],
    logits: tuple[Tensor, Tensor],
    labels: Tensor,
    config: DualTrackConfig,
    batch: Batch | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of stage 1, on features and logits of (adversarial, benign) images.

    ``adversarial_weight CE(h(g(x_adv)), y) + clean_weight CE(h(g(x)), y) + genetic_weight L_gr
    + alignment_weight (1 - cos(g(x_adv), g(x)))``; the last term, through which no gradient reaches g(x), is ours.

    Args:
        features: Two tensors (N, D).
        logits: Two tensors (N, K).
        labels: Classes (N,).
        config: The weights; a term of weight 0 is not computed.
        batch: The global batch that these rows belong to, the means being over that one; None: they are all of it.

    Returns:
        The loss, and its terms by name before weighting.
    """
    (adversarial, benign), (adversarial_logits, clean_logits) = features, logits
    mean = torch.mean if batch is None else batch.mean
    clean = F.cross_entropy(clean_logits, labels, reduction="none")
    hit = F.cross_entropy(adversarial_logits, labels, reduction="none")
    terms = {"adversarial": mean(hit), "clean": mean(clean)}
    weights = {"adversarial": config.adversarial_weight, "clean": config.clean_weight}
    if config.genetic_weight:
        terms["genetic"] = _genetic(adversarial, benign, labels, clean, batch)
        weights["genetic"] = config.genetic_weight
    if config.alignment_weight:
        terms["alignment"] = mean(1 - F.cosine_similarity(adversarial, benign.detach(), dim=1))
        weights["alignment"] = config.alignment_weight
    loss = sum((weights[name] * term for name, term in terms.items()), start=clean.new_zeros(()))
    return loss, terms


def _genetic(adversarial: Tensor, benign: Tensor, labels: Tensor, clean: Tensor, batch: Batch | None) -> Tensor:
    """Return this process's part of L_gr over the global batch: its own rows against the rows of all processes."""
    if batch is None or batch.processes.count == 1:
        share = 1.0 if batch is None else len(labels) / batch.total
        return share * genetic_regularization(adversarial, benign, labels, weight=clean)
    columns = torch.cat([adversarial, benign, clean.detach()[:, None], labels[:, None].float()], dim=1)
    everyone = batch.processes.gather_rows(columns, batch.rows, batch.total)
    width = adversarial.shape[1]
    adversarial, benign, clean, labels = everyone.split([width, width, 1, 1], dim=1)
    rows = batch.rows.to(columns.device)
    own = genetic_regularization(adversarial, benign, labels[:, 0].long(), weight=clean[:, 0], rows=rows)
    return own * batch.processes.count


LOSSES = {"dual-track": dual_track_loss, "trades": trades_loss, "mart": mart_loss}


def dual_track_finetuning(
    run: Run, model: HardenedModel, data: DataSplits, config: DualTrackConfig, *, stage: str = "stage 1"
) -> Adversary | None:
    """Fine-tune encoder and head of ``model``, each with an optimizer of its own.

    Where the loss is a cross-entropy alone, on clean images (``config.adversary.kind == "none"``: ordinary fine-tuning)
    or on adversarial ones (PGD-AT), there is a single track.

    Returns:
        The adversary in its last state, or None where there was none.

    Raises:
        TrainingError: A loss is no longer finite.
    """
    kind = config.adversary.kind
    adversary = None
    if kind != "none":
        adversary = ADVERSARIES[kind](config.adversary, key_of(run.seed, stage, "adversary"), run.processes)
    model.to(run.accelerator.device).to(memory_format=torch.channels_last)

    tracks = Tracks(model)
    classifier = Shared(tracks) if run.accelerator.is_fsdp2 else model

    def inputs(batch: Batch) -> Tracked:
        batch = varied(batch, config.shift, config.augmentation)
        if adversary is None:
            return (batch.pixels,)
        with run.accelerator.autocast():
            adversarial = adversary.perturb(classifier, batch)
        return (adversarial,) if config.is_single_track else (adversarial, batch.pixels)

    def loss(features: Tracked, logits: Tracked, batch: Batch) -> Step:
        if adversary is None or config.is_single_track:
            return cross_entropy_step(features, logits, batch)
        value, terms = LOSSES[config.objective](_pair(features), _pair(logits), batch.labels, config, batch)
        return Step(value, terms, (logits[1].argmax(1) == batch.labels).sum())

    tracks.encoder.requires_grad_(not config.freeze_encoder)
    decay = config.weight_decay
    encoder_step = config.encoder_step(sum(parameter.numel() for parameter in tracks.encoder.parameters()))
    optimizers = [
        torch.optim.Adam(tracks.encoder.parameters(), encoder_step, weight_decay=decay),
        torch.optim.Adam(tracks.head.parameters(), config.head_learning_rate, weight_decay=decay),
    ]
    training = Training(
        stage=stage,
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizers=optimizers,
        schedule=cosine if config.schedule == "cosine" else exponential(config.epochs),
        inputs=inputs,
        loss=loss,
        compares_images=adversary is not None and config.objective == "dual-track" and config.genetic_weight > 0,
        adversary=adversary,
        validate=lambda: validation_accuracy(run, classifier, data),
        train_mode=_only_the_head_trains if config.freeze_encoder else nn.Module.train,
    )
    trained = fit(run, tracks, data.train, training)
    model.encoder, model.head = trained.encoder, trained.head
    model.encoder.requires_grad_()
    model.eval()
    return adversary


def _pair(tracks: Tracked) -> tuple[Tensor, Tensor]:
    adversarial, benign = tracks
    return adversarial, benign


def _only_the_head_trains(tracks: nn.Module) -> None:
    tracks.train()
    tracks.get_submodule("encoder").eval()


def cross_entropy_step(features: Tracked, logits: Tracked, batch: Batch) -> Step:  # noqa: ARG001  # as all losses
    """Return the cross-entropy of a single track alone as a step; logits (n, K)."""
    loss = batch.mean(F.cross_entropy(logits[0], batch.labels, reduction="none"))
    return Step(loss, {}, (logits[0].argmax(1) == batch.labels).sum())


def validation_accuracy(run: Run, model: nn.Module, data: DataSplits) -> dict[str, float]:
    """Return what the history records of an epoch, measured by all processes together."""
    return {"validation_accuracy": accuracy(model, data.validation, run.accelerator.device, run.processes)}
