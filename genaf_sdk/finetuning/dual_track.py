"""Stage 1: genetic-directed dual-track adversarial fine-tuning (paper, stage 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.data.augmentation import augmented
from genaf_sdk.finetuning.adversary import ADVERSARIES, Adversary
from genaf_sdk.finetuning.baselines import mart_loss, trades_loss
from genaf_sdk.finetuning.genetic import genetic_regularization
from genaf_sdk.finetuning.loop import Run, Step, accuracy, cosine, exponential, fit, random_shift

if TYPE_CHECKING:
    from genaf_sdk.config import DualTrackConfig
    from genaf_sdk.data import DataSplits
    from genaf_sdk.model import HardenedModel


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


def dual_track_loss(
    features: tuple[Tensor, Tensor], logits: tuple[Tensor, Tensor], labels: Tensor, config: DualTrackConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of stage 1, on features and logits of (adversarial, benign) images.

    ``adversarial_weight CE(h(g(x_adv)), y) + clean_weight CE(h(g(x)), y) + genetic_weight L_gr
    + alignment_weight (1 - cos(g(x_adv), g(x)))``; the last term, through which no gradient reaches g(x), is ours.

    Args:
        features: Two tensors (N, D).
        logits: Two tensors (N, K).
        labels: Classes (N,).
        config: The weights; a term of weight 0 is not computed.

    Returns:
        The loss, and its terms by name before weighting.
    """
    (adversarial, benign), (adversarial_logits, clean_logits) = features, logits
    clean = F.cross_entropy(clean_logits, labels, reduction="none")
    terms = {"adversarial": F.cross_entropy(adversarial_logits, labels), "clean": clean.mean()}
    weights = {"adversarial": config.adversarial_weight, "clean": config.clean_weight}
    if config.genetic_weight:
        terms["genetic"] = genetic_regularization(adversarial, benign, labels, weight=clean)
        weights["genetic"] = config.genetic_weight
    if config.alignment_weight:
        terms["alignment"] = 1 - F.cosine_similarity(adversarial, benign.detach(), dim=1).mean()
        weights["alignment"] = config.alignment_weight
    loss = sum((weights[name] * term for name, term in terms.items()), start=clean.new_zeros(()))
    return loss, terms


LOSSES = {"dual-track": dual_track_loss, "trades": trades_loss, "mart": mart_loss}


def dual_track_finetuning(
    run: Run, model: HardenedModel, data: DataSplits, config: DualTrackConfig, *, stage: str = "stage 1"
) -> Adversary | None:
    """Fine-tune encoder and head of ``model`` in place, each with an optimizer of its own.

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
        adversary = ADVERSARIES[kind](config.adversary, run.generator(f"{stage} adversary"), run.sum_over_processes)
    shifts, changes = run.generator(f"{stage} augmentation"), run.generator(f"{stage} changes")
    model.to(run.accelerator.device).to(memory_format=torch.channels_last)

    def step(tracks: nn.Module, pixels: Tensor, labels: Tensor) -> Step:
        pixels = random_shift(pixels, config.shift, shifts)
        pixels = augmented(pixels, config.augmentation, torch.randint(2**31, (len(pixels),), generator=changes))
        images = pixels
        if adversary is not None:
            with run.accelerator.autocast():
                images = adversary.perturb(model, pixels, labels)
        if adversary is None or config.is_single_track:
            logits = tracks(images)[1].float()
            return Step(F.cross_entropy(logits, labels), {}, (logits.argmax(1) == labels).sum())
        features, logits = (output.float() for output in tracks(torch.cat([images, pixels])))
        loss, terms = LOSSES[config.objective](features.chunk(2), logits.chunk(2), labels, config)
        return Step(loss, terms, (logits.chunk(2)[1].argmax(1) == labels).sum())

    tracks = Tracks(model)
    tracks.encoder.requires_grad_(not config.freeze_encoder)
    decay = config.weight_decay
    encoder_step = config.encoder_step(sum(parameter.numel() for parameter in tracks.encoder.parameters()))
    optimizers = [
        torch.optim.Adam(tracks.encoder.parameters(), encoder_step, weight_decay=decay),
        torch.optim.Adam(tracks.head.parameters(), config.head_learning_rate, weight_decay=decay),
    ]
    fit(
        run,
        tracks,
        data.train,
        stage=stage,
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizers=optimizers,
        schedule=cosine if config.schedule == "cosine" else exponential(config.epochs),
        step=step,
        after_backward=adversary.learn if adversary else lambda: None,
        validate=lambda: {"validation_accuracy": accuracy(model, data.validation, run.accelerator.device)},
        train_mode=_only_the_head_trains if config.freeze_encoder else nn.Module.train,
    )
    tracks.encoder.requires_grad_()
    model.eval()
    return adversary


def _only_the_head_trains(tracks: nn.Module) -> None:
    tracks.train()
    tracks.get_submodule("encoder").eval()
