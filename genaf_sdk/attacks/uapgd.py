"""UAPGD: mini-batch sign-gradient ascent of one universal perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.attacks.base import EncoderAttack, batches_forever, register
from genaf_sdk.attacks.losses import info_nce
from genaf_sdk.attacks.perturbation import Perturbation


@register
@dataclass(frozen=True)
class UAPGD(EncoderAttack):
    """Drives features of perturbed images away from the clean ones (SGD-UAP on a loss that needs no labels).

    The published attack ascends a classification loss; a bare encoder has none, so the loss is minus the cosine
    similarity between perturbed and clean features, or InfoNCE with the other images of the batch as negatives.
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
        shape = tuple(surrogate.shape[1:])
        delta = torch.empty(shape).uniform_(-self.budget, self.budget, generator=generator).to(surrogate)
        order = batches_forever(len(surrogate), self.batch_size, generator)
        for step in range(self.steps):
            indices = next(order).to(surrogate.device)
            delta.requires_grad_()
            features = encoder((surrogate[indices] + delta).clamp(0, 1))
            if self.loss == "cosine":
                loss = -F.cosine_similarity(features, clean[indices], dim=1).mean()
            else:
                loss = info_nce(features, clean[indices])
            (gradient,) = torch.autograd.grad(loss, delta)
            length = self.budget * self.relative_step * (1 - 0.9 * step / self.steps)
            delta = (delta.detach() + length * gradient.sign()).clamp(-self.budget, self.budget)
        return Perturbation(delta, self.budget)
