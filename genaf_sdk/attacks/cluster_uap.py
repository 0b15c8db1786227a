"""Cluster UAP: one perturbation that makes all images look like those of one kind, to an encoder without labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.targets import ClusterTarget
from genaf_sdk.attacks.tried_uap import FINALISTS, LOOKS, TriedUAP, moved
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
    close to another kind of images are answered like these. Each center gets a first run, the two that come closest on
    held-out images a second one, which goes on from there. The publication pulls to a class by its logits. Native
    budget 10/255 (ImageNet).
    """

    name = "cluster-uap"
    source = "Zhang et al., Mutual Influence of Images and Perturbations, CVPR 2020; on clusters of features, ours"

    loss: Literal["cosine"] = "cosine"
    goals: Annotated[int, Between(1, 1000)] = 6
    """How many clusters are made, and tried."""
    steps: Count = 100
    """Of a second run, at most; a first one has half as many."""

    def passes(self, images: int) -> float:
        """Return those of the first runs and of the second ones."""
        return EncoderAttack.passes(self, images) * (self.goals / 2 + min(FINALISTS, self.goals))

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Try the centers, then climb to the best."""
        target = ClusterTarget(encoder, surrogate, self.goals, generator, self.held_out)
        run, _, noise = self._runner(encoder, target, generator)
        goals = [partial(target.toward, center) for center in target.centers]
        tried = [(run(toward, noise(), max(1, self.steps // 2), 1), toward) for toward in goals]
        finalists = sorted(tried, key=lambda one: moved(one[0]), reverse=True)[:FINALISTS]
        made = max((run(toward, one.values, self.steps, LOOKS) for one, toward in finalists), key=moved)
        return Perturbation(made.values, self.threat, details=made.details)
