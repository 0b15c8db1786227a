"""UAPGD: mini-batch sign-gradient ascent of one universal perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.targets import FeatureTarget
from genaf_sdk.attacks.tried_uap import TriedUAP
from genaf_sdk.settings import Count

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class UAPGD(TriedUAP, EncoderAttack):
    """Drives features of perturbed images away from the clean ones (SGD-UAP on losses that need no labels).

    The published attack ascends a classification loss; a bare encoder has none. Climbed are InfoNCE with the other
    images of the batch as negatives, or minus the cosine similarity, or the squared distance to the clean features: in
    short trials from several starts, and from the best of them in a long run. Kept is what brings most held-out images
    nearest to the clean features of another one (cosine). Native budgets 8/255 (CIFAR-10) and 10/255 (ImageNet).
    """

    name = "uapgd"
    source = "Shafahi et al., Universal Adversarial Training, AAAI 2020; Co et al., 2021"

    losses = ("info-nce", "cosine", "mse")

    steps: Count = 150
    """Of the long run, at most."""
    batch_size: Count = 64
    loss: Literal["all", "info-nce", "cosine", "mse"] = "info-nce"
    """One of these, or all: a trial takes one after the other. The cosine leads after few steps and ends behind."""

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Climb from random starts."""
        return self.strongest(encoder, FeatureTarget(encoder, surrogate, generator, self.held_out), generator)

    def run_from(
        self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator, start: Perturbation
    ) -> Perturbation:
        """Climb from ``start`` first: the result is not weaker on the images that judge."""
        target = FeatureTarget(encoder, surrogate, generator, self.held_out)
        return self.strongest(encoder, target, generator, start.values.to(surrogate))
