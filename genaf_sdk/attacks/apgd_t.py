"""APGD-T: APGD on the targeted difference-of-logits ratio."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from genaf_sdk.attacks.apgd import climb_all
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.sample_wise import SampleWiseAttack
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.settings import Count

if TYPE_CHECKING:
    from genaf_sdk.attacks.base import Classifier


@register
@dataclass(frozen=True)
class ApgdT(SampleWiseAttack):
    """Climbs the targeted DLR loss towards the most likely wrong classes, one after the other; native budget 8/255.

    The loss does not change when the logits are scaled, so it cannot be hidden by saturating the softmax. An image that
    one target fools is left out of the next.
    """

    name = "apgd-t"
    source = "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble, ICML 2020"
    only_outputs = True

    steps: Count = 100
    targets: Count = 9
    """How many wrong classes are tried; all of them where there are fewer."""

    def require(self, target: nn.Module, pixels: Tensor, classes: int) -> None:
        """Refuse fewer than four classes."""
        super().require(target, pixels, classes)
        self._require_classes(classes)

    def _require_classes(self, count: int) -> None:
        if count < 4:
            raise AttackError(
                f"{self.name!r} was given a model of {count} classes.",
                expected="at least 4: the targeted DLR loss needs the four largest logits",
                remedy="use 'apgd-ce'",
            )

    def passes(self, images: int) -> float:
        """Return those towards every target."""
        return super().passes(images) * self.targets

    def run(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Climb towards every target."""
        with torch.no_grad():
            logits = model(pixels)
        self._require_classes(logits.shape[1])
        ranking = logits.scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True)

        def losses_of(rank: int, logits: Tensor, index: Tensor) -> Tensor:
            return targeted_dlr(logits, labels[index], ranking[index, rank])

        attempts = (partial(losses_of, rank) for rank in range(min(self.targets, logits.shape[1] - 1)))
        ball = Linf(self.budget)
        return climb_all(model, pixels, labels, attempts, ball=ball, steps=self.steps, generator=generator)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return ``-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)`` with z_1 >= z_2 >= ... the sorted logits: (N, K) -> (N,).

    Source: Croce and Hein 2020, equation 9; 1e-12 keeps the division defined, as in the authors' code.
    """
    ordered = logits.sort(dim=1, descending=True).values
    right, target = (logits.gather(1, index[:, None])[:, 0] for index in (labels, targets))
    return -(right - target) / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)
