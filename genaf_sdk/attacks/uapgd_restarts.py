"""UAPGD at its limit: restarts over the losses that an encoder allows, judged on held-out surrogate images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.restarted_uap import RestartedUAP
from genaf_sdk.attacks.targets import FeatureTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class UAPGDRestarts(RestartedUAP, EncoderAttack):
    """Climbs InfoNCE, minus the cosine similarity and the squared distance to the clean features, one after the other.

    A quarter of the surrogate images is held out. Kept is what brings most of them nearest to the clean features of
    another one (cosine), over all epochs and restarts; every second restart has momentum. ``details`` say which loss
    won and whether it had converged. Native budgets as UAPGD's.
    """

    name = "uapgd-restarts"
    source = "Shafahi et al., Universal Adversarial Training, AAAI 2020; Co et al., 2021; restarts ours"

    losses = ("info-nce", "cosine", "mse")

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Climb from random starts."""
        return self.strongest(encoder, FeatureTarget(encoder, surrogate, generator), generator)

    def run_from(
        self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator, start: Tensor
    ) -> Perturbation:
        """Climb from ``start`` first: the result is not weaker on the held-out images."""
        return self.strongest(encoder, FeatureTarget(encoder, surrogate, generator), generator, start)
