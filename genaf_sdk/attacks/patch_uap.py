"""Adversarial patch: one patch for all images on the label loss, at the place that serves it best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.base import UniversalModelAttack
from genaf_sdk.attacks.placed_patch import PlacedPatch
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.targets import LabelTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class PatchUAP(PlacedPatch, UniversalModelAttack):
    """Maximizes ``mean(min(CE(f((1 - m) x + m p), y), clamp))`` over the pixels p and the place of the mask m.

    The publication targets a class and draws places, turns and scales for a patch that is printed; this one is
    untargeted and stays where it does most, as an attacker who sends files would have it.
    """

    name = "patch-uap"
    source = "Brown et al., Adversarial Patch, NIPS 2017 workshop"

    loss = "cross-entropy"

    clamp: float = 9.0

    def run(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Perturbation:
        """Try the places, then climb at the best."""
        return self.found(model, LabelTarget(model, pixels, labels, self.clamp, generator), generator)[0]

    def run_from(
        self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator, start: Perturbation
    ) -> Perturbation:
        """Try the place and the pixels of ``start``, too."""
        return self.found(model, LabelTarget(model, pixels, labels, self.clamp, generator), generator, start)[0]
