"""A label-free patch by plain sign ascent on the encoder, at the places that serve it best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.placed_patch import PlacedPatch
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.targets import FeatureTarget
from genaf_sdk.settings import Count

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class EncoderPatch(PlacedPatch, EncoderAttack):
    """Drives the features of patched images away from the clean ones by InfoNCE, at the places that do most.

    An eighth of the surrogate images is held out; the likeliest is what brings most of them nearest to the clean
    features of another one (cosine). How far features go does not tell between places: what moves those of digits most
    at the edge leaves 98 % right, in the middle 90 %. So several places, apart from one another, are climbed at.
    """

    name = "encoder-patch"
    source = "Brown et al., Adversarial Patch, NIPS 2017 workshop; without labels, ours"

    loss = "info-nce"
    most_moves = 4

    finalists: Count = 3

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> list[Perturbation]:
        """Try the places, then climb at the best ones."""
        return self.found(encoder, FeatureTarget(encoder, surrogate, generator), generator)

    def run_from(
        self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator, start: Perturbation
    ) -> list[Perturbation]:
        """Try the place and the pixels of ``start``, too."""
        return self.found(encoder, FeatureTarget(encoder, surrogate, generator), generator, start)
