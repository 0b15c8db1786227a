"""UAPGD: mini-batch sign-gradient ascent of one universal perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch.nn import functional as F

from genaf_sdk.attacks.ascent import linear_decay, sign_ascent
from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.batches import endless_batches, outputs_of
from genaf_sdk.attacks.losses import info_nce
from genaf_sdk.attacks.registry import register
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.settings import Count, Share

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class UAPGD(EncoderAttack):
    """Drives features of perturbed images away from the clean ones (SGD-UAP on a loss that needs no labels).

    The published attack ascends a classification loss; a bare encoder has none, so the loss is minus the cosine
    similarity between perturbed and clean features, or InfoNCE with the other images of the batch as negatives.
    Native budgets 8/255 (CIFAR-10) and 10/255 (ImageNet).
    """

    name = "uapgd"
    source = "Shafahi et al., Universal Adversarial Training, AAAI 2020; Co et al., 2021"

    loss: Literal["cosine", "info-nce"] = "cosine"
    steps: Count = 200
    batch_size: Count = 128
    relative_step_size: Share = 0.1
    """Length of the first step, as a share of the budget; it falls linearly to a tenth of that."""

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Ascend."""
        space, clean = input_space(encoder, surrogate), outputs_of(encoder, surrogate)
        order = endless_batches(len(surrogate), self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            batch = next(order).to(surrogate.device)
            features = encoder(space.add(surrogate[batch], delta))
            if self.loss == "info-nce":
                return info_nce(features, clean[batch])
            return -F.cosine_similarity(features, clean[batch], dim=1).mean()

        start = self.threat.start(surrogate[0], generator)
        step_sizes = linear_decay(self.relative_step_size * self.budget, self.steps)
        return Perturbation(sign_ascent(objective, start, self.threat, step_sizes), self.threat)
