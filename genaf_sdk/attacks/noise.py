"""Random noise of the same budget: what every attack has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genaf_sdk.attacks.base import EncoderAttack, register
from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class Noise(EncoderAttack):
    """Every pixel moves by the whole budget, up or down by the toss of a coin."""

    name = "noise"
    source = "control"
    needs_gradient: ClassVar[bool] = False

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:  # noqa: ARG002
        """Draw the signs."""
        signs = torch.randint(2, tuple(surrogate.shape[1:]), generator=generator) * 2 - 1
        return Perturbation(signs * self.budget, self.budget)
