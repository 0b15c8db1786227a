"""Targeted UAP: one perturbation that turns every image into the same class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import linear_decay, sign_ascent
from genaf_sdk.attacks.base import UniversalModelAttack
from genaf_sdk.attacks.batches import READING, image_batches, outputs_of
from genaf_sdk.attacks.registry import register
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.settings import Count, Share

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class TargetedUAP(UniversalModelAttack):
    """Minimizes ``CE(f(x + d), t)`` for one class t.

    Without a target, the classes that the images are closest to (highest mean log-probability over the images of other
    classes) get a short run each, and the one that most images end in gets the long run.
    """

    name = "targeted-uap"
    source = (
        "Hirano and Takemoto, Simple Iterative Method for Generating Targeted Universal Adversarial Perturbations, "
        "Algorithms 2020"
    )
    only_outputs = True

    target: int | None = None
    """Index of the class; None looks for the weakest spot."""
    candidates: Count = 4
    """How many classes get a short run where there is no target."""
    steps: Count = 300
    batch_size: Count = 128
    relative_step_size: Share = 0.1
    """Length of the first step, as a share of the budget; it falls linearly to a tenth of that."""

    def require(self, target: nn.Module, pixels: Tensor, classes: int) -> None:
        """Refuse a target that is no class."""
        super().require(target, pixels, classes)
        self._require_class(classes)

    def _require_class(self, classes: int) -> None:
        if self.target is not None and not 0 <= self.target < classes:
            raise AttackError(f"The target is {self.target}.", expected=f"a class from 0 to {classes - 1}, or None")

    def passes(self, images: int) -> float:
        """Return the long run's, and where there is no target those of the short ones."""
        return super().passes(images) * (1 + (self.candidates / 5 if self.target is None else 0))

    def run(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Perturbation:
        """Choose the class, then descend."""
        scores = outputs_of(model, pixels).log_softmax(dim=1)
        classes = scores.shape[1]
        self._require_class(classes)
        target = self.target
        if target is None:
            own = F.one_hot(labels, classes).bool()
            closeness = scores.masked_fill(own, 0).sum(dim=0) / (~own).sum(dim=0).clamp(min=1)
            likely = closeness.topk(min(self.candidates, classes)).indices.tolist()
            short = {t: self._descend(model, pixels, t, self.steps // 5 + 1, generator) for t in likely}
            target = max(likely, key=lambda t: target_hits(model, pixels, short[t], t))
        delta = self._descend(model, pixels, target, self.steps, generator)
        return Perturbation(delta, self.threat, details={"target": target})

    def _descend(self, model: nn.Module, pixels: Tensor, target: int, steps: int, generator: torch.Generator) -> Tensor:
        space, batches = input_space(model, pixels), image_batches(pixels, self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            logits = model(space.add(next(batches), delta))
            return -F.cross_entropy(logits, torch.full((len(logits),), target, device=logits.device))

        start = self.threat.start(pixels[0], generator)
        return sign_ascent(objective, start, self.threat, linear_decay(self.relative_step_size * self.budget, steps))


@torch.no_grad()
def target_hits(model: nn.Module, pixels: Tensor, delta: Tensor, target: int) -> int:
    """Return how many images (N, C, H, W) the model takes for the class ``target`` when ``delta`` is added."""
    space = input_space(model, pixels)
    return sum(int((model(space.add(batch, delta)).argmax(dim=1) == target).sum()) for batch in pixels.split(READING))
