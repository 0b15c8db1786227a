"""UAPGD: mini-batch sign-gradient ascent of one universal perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import falling, random_start, shown, sign_ascent
from genaf_sdk.attacks.base import EncoderAttack, batches_forever, register
from genaf_sdk.attacks.losses import info_nce
from genaf_sdk.inputs.perturbation import Perturbation

if TYPE_CHECKING:
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
    steps: int = 200
    batch_size: int = 128
    relative_step: float = 0.1
    """Length of the first step, as a share of the budget; it falls linearly to a tenth of that."""

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Ascend."""
        with torch.no_grad():
            clean = torch.cat([encoder(batch) for batch in surrogate.split(512)])
        order = batches_forever(len(surrogate), self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            batch = next(order).to(surrogate.device)
            features = encoder(shown(surrogate[batch], delta))
            if self.loss == "info-nce":
                return info_nce(features, clean[batch])
            return -F.cosine_similarity(features, clean[batch], dim=1).mean()

        start = random_start(surrogate, self.budget, generator)
        delta = sign_ascent(objective, start, self.budget, falling(self.relative_step * self.budget, self.steps))
        return Perturbation(delta, self.budget)
