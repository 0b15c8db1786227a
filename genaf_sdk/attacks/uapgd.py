"""UAPGD: mini-batch sign-gradient ascent of one universal perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.targets import FeatureTarget
from genaf_sdk.attacks.tried_uap import TriedUAP

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class UAPGD(TriedUAP, EncoderAttack):
    """Drives features of perturbed images away from the clean ones (SGD-UAP on losses that need no labels).

    The published attack ascends a classification loss; a bare encoder has none. Climbed is InfoNCE with the other
    images as negatives, or minus the cosine similarity, or the squared distance to the clean features. Where that moves
    few, short runs pull the features of all images to the center of one cluster of clean ones, and the long run begins
    there. Kept is what brings most held-out images nearest to the clean features of another one (cosine). Native
    budgets 8/255 (CIFAR-10) and 10/255 (ImageNet).
    """

    name = "uapgd"
    source = "Shafahi et al., Universal Adversarial Training, AAAI 2020; Co et al., 2021"

    loss: Literal["info-nce", "cosine", "mse"] = "info-nce"
    """The cosine leads after few steps and ends behind."""

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Climb from noise."""
        return self.strongest(encoder, FeatureTarget(encoder, surrogate, generator, self.held_out), generator)

    def run_from(
        self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator, start: Perturbation
    ) -> Perturbation:
        """Climb from ``start``, too, if that is needed: the result is not weaker on the images that judge."""
        target = FeatureTarget(encoder, surrogate, generator, self.held_out)
        return self.strongest(encoder, target, generator, start.values.to(surrogate))
