"""AdvEncoder-PER: a generated perturbation that serves against any downstream task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.advencoder import GeneratorAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.perturbation import Perturbation

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class AdvEncoderPer(GeneratorAttack):
    """The generator's map is clamped to the budget and added to every image. Native budget 10/255."""

    name = "advencoder-per"
    source = "Zhou et al., Downstream-agnostic Adversarial Examples, ICCV 2023"

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Train the generator and return what it makes."""
        space = input_space(encoder, surrogate)

        def attacked(images: Tensor, values: Tensor) -> Tensor:
            return space.add(images, self.threat.project(values))

        delta = self.train(encoder, surrogate, generator, attacked)
        return Perturbation(self.threat.project(delta), self.threat)
