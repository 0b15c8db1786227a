"""Targeted UAP: one perturbation that turns every image into the same class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import falling, image_batches, random_start, shown, sign_ascent
from genaf_sdk.attacks.base import UniversalModelAttack, register
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.perturbation import Perturbation

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class TargetedUAP(UniversalModelAttack):
    """Minimises ``CE(f(x + d), t)`` for one class t.

    Without a target, the classes that the images are closest to (highest mean log-probability over the images of other
    classes) get a short run each, and the one that most images end in gets the long run.
    """

    name = "targeted-uap"
    source = (
        "Hirano and Takemoto, Simple Iterative Method for Generating Targeted Universal Adversarial Perturbations, "
        "Algorithms 2020"
    )

    target: int | None = None
    """Index of the class; None looks for the weakest spot."""
    candidates: int = 4
    """How many classes get a short run where there is no target."""
    steps: int = 300
    batch_size: int = 128
    relative_step: float = 0.1
    """Length of the first step, as a share of the budget; it falls linearly to a tenth of that."""

    def run(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Perturbation:
        """Choose the class, then descend."""
        with torch.no_grad():
            scores = torch.cat([model(batch) for batch in pixels.split(512)]).log_softmax(dim=1)
        classes = scores.shape[1]
        target = self.target
        if target is not None and not 0 <= target < classes:
            raise AttackError(f"The target is {target}.", expected=f"a class from 0 to {classes - 1}, or None")
        if target is None:
            own = F.one_hot(labels, classes).bool()
            closeness = scores.masked_fill(own, 0).sum(dim=0) / (~own).sum(dim=0).clamp(min=1)
            likely = closeness.topk(min(self.candidates, classes)).indices.tolist()
            short = {t: self._descend(model, pixels, t, self.steps // 5 + 1, generator) for t in likely}
            target = max(likely, key=lambda t: hits(model, pixels, short[t], t))
        delta = self._descend(model, pixels, target, self.steps, generator)
        return Perturbation(delta, self.budget, details={"target": target})

    def _descend(self, model: nn.Module, pixels: Tensor, target: int, steps: int, generator: torch.Generator) -> Tensor:
        batches = image_batches(pixels, self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            logits = model(shown(next(batches), delta))
            return -F.cross_entropy(logits, torch.full((len(logits),), target, device=logits.device))

        start = random_start(pixels, self.budget, generator)
        return sign_ascent(objective, start, self.budget, falling(self.relative_step * self.budget, steps))


@torch.no_grad()
def hits(model: nn.Module, pixels: Tensor, delta: Tensor, target: int) -> int:
    """Return how many images (N, C, H, W) the model takes for the class ``target`` when ``delta`` is added."""
    return sum(int((model(shown(batch, delta)).argmax(dim=1) == target).sum()) for batch in pixels.split(512))
