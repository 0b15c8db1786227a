"""APGD-CE: APGD on the cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

from torch.nn import functional as F

from genaf_sdk.attacks.apgd import climb_all
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.sample_wise import SampleWiseAttack
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.settings import Count

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from genaf_sdk.attacks.base import Classifier


@register
@dataclass(frozen=True)
class ApgdCE(SampleWiseAttack):
    """Climbs the cross-entropy; images fooled by one restart are left out of the next. Native budget 8/255."""

    name = "apgd-ce"
    source = "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble, ICML 2020"
    only_outputs = True

    steps: Count = 100
    restarts: Count = 1

    def run(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Climb from every start."""

        def losses_of(logits: Tensor, index: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels[index], reduction="none")

        attempts = repeat(losses_of, self.restarts)
        ball = Linf(self.budget)
        return climb_all(model, pixels, labels, attempts, ball=ball, steps=self.steps, generator=generator)
