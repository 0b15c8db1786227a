"""APGD-CE: APGD on the cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.apgd import apgd
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.sample_wise import SampleWiseAttack
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.settings import Count

if TYPE_CHECKING:
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
        results = pixels.clone()
        open_rows = correctly_classified(model, pixels, labels)
        for _ in range(self.restarts):
            if len(open_rows) == 0:
                break
            targets = labels[open_rows]

            def losses_of(logits: Tensor, index: Tensor, targets: Tensor = targets) -> Tensor:
                return F.cross_entropy(logits, targets[index], reduction="none")

            results[open_rows], fooled = apgd(
                model,
                pixels[open_rows],
                targets,
                losses_of,
                ball=Linf(self.budget),
                steps=self.steps,
                generator=generator,
            )
            open_rows = open_rows[~fooled]
        return results


@torch.no_grad()
def correctly_classified(model: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
    """Return the indices of the images that the model gets right: there is no point in attacking the others."""
    return torch.nonzero(model(pixels).argmax(dim=1) == labels).flatten()
