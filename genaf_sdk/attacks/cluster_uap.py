"""Cluster UAP: one perturbation that makes all images look like those of one kind, to an encoder without labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.targets import cluster_targets
from genaf_sdk.attacks.tried_uap import LOOKS, TriedUAP
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.settings import Between, Count

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class ClusterUAP(TriedUAP, EncoderAttack):
    """Pulls the features of all images to the center of one k-means cluster of clean features (cosine).

    Features that are driven *away*, as UAPGD does, may go far without a classifier changing its answer. Those that come
    close to another kind of images are answered like these. Each center is tried. Which does most to a classifier
    cannot be told without labels; the likeliest is the one that most held-out images come closest to. The publication
    pulls to a class by its logits. Native budget 10/255 (ImageNet).
    """

    name = "cluster-uap"
    source = "Zhang et al., Mutual Influence of Images and Perturbations, CVPR 2020; on clusters of features, ours"

    loss: Literal["cosine"] = "cosine"
    goals: Annotated[int, Between(1, 1000)] = 6
    """How many clusters are made, and tried."""
    steps: Count = 150
    """Toward each center, at most."""
    batch_size: Count = 32

    def passes(self, images: int) -> float:
        """Return those toward all centers."""
        return EncoderAttack.passes(self, images) * self.goals

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> list[Perturbation]:
        """Climb toward each center; return what brought most held-out images there first."""
        climbs = []
        for target in cluster_targets(encoder, surrogate, self.goals, generator, self.held_out):
            run, _, noise = self._runner(encoder, target, generator)
            climbs.append(run(partial(target.objective, self.loss), noise(), self.steps, LOOKS))
        likeliest = sorted(climbs, key=lambda made: made.success, reverse=True)
        return [Perturbation(made.values, self.threat, details=made.details) for made in likeliest]
