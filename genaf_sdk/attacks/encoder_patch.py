"""A label-free patch by plain sign ascent on the encoder, at the place that serves it best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.placed_patch import PlacedPatch
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.targets import FeatureTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class EncoderPatch(PlacedPatch, EncoderAttack):
    """Drives the features of patched images away from the clean ones by InfoNCE, at the place that does most.

    An eighth of the surrogate images is held out; kept is what brings most of them nearest to the clean features of
    another one (cosine).
    """

    name = "encoder-patch"
    source = "Brown et al., Adversarial Patch, NIPS 2017 workshop; without labels, ours"

    loss = "info-nce"

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Try the places, then climb at the best."""
        return self.strongest(encoder, FeatureTarget(encoder, surrogate, generator), generator)

    def run_from(
        self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator, start: Perturbation
    ) -> Perturbation:
        """Try the place and the pixels of ``start``, too."""
        return self.strongest(encoder, FeatureTarget(encoder, surrogate, generator), generator, start)
