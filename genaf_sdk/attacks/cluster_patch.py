"""Cluster patch: one patch that makes all images look like those of one kind, to an encoder without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.placed_patch import PlacedPatch
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.targets import cluster_targets
from genaf_sdk.settings import Between, Count

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class ClusterPatch(PlacedPatch, EncoderAttack):
    """Pulls the features of patched images to the center of one k-means cluster of clean features (cosine).

    As ``ClusterUAP``, with a patch: each center is tried, at the place that suits it best. There are fewer places than
    for a patch that drives away, and the last one does not move.
    """

    name = "cluster-patch"
    source = "Brown et al., Adversarial Patch, NIPS 2017 workshop; on clusters of features, ours"

    loss = "cosine"
    most_moves = 0
    goals: Annotated[int, Between(1, 1000)] = 6
    """How many clusters are made, and tried."""
    grid: Count = 3
    batch_size: Count = 32

    def passes(self, images: int) -> float:
        """Return those toward all centers."""
        return super().passes(images) * self.goals

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> list[Perturbation]:
        """Search for each center; return what brought most held-out images there first."""
        targets = cluster_targets(encoder, surrogate, self.goals, generator)
        made = [found for target in targets for found in self.found(encoder, target, generator)]
        return sorted(made, key=lambda found: float(found.details["held_out_rate"] or 0), reverse=True)
