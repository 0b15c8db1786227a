"""Random noise of the same budget: what every attack has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class Noise(EncoderAttack):
    """Each value changes by +eps or -eps with equal probability."""

    name = "noise"
    source = "control"
    needs_gradient: ClassVar[bool] = False
    knowledge = Knowledge.NOISE

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:  # noqa: ARG002
        """Draw the signs."""
        signs = torch.randint(2, tuple(surrogate.shape[1:]), generator=generator) * 2 - 1
        return Perturbation(signs * self.budget, self.threat)
