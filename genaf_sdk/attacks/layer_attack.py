"""What attacks on the activations of layers share: find the layers, draw batches, climb by sign steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genaf_sdk.attacks.ascent import sign_ascent
from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.batches import image_batches
from genaf_sdk.attacks.layers import activations, layer_at
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.inputs.space import InputSpace
from genaf_sdk.settings import Count, Share


@dataclass(frozen=True)
class AttackedLayers:
    """The layers under attack, and what an objective needs beside the images.

    Args:
        encoder: The module that has them.
        names: Of the layers.
        space: Of the images.
        generator: Source of all randomness, on the CPU.
    """

    encoder: nn.Module
    names: Sequence[str]
    space: InputSpace
    generator: torch.Generator

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the activation of every layer for images (N, C, H, W); the pass ends with the last of them."""
        return activations(self.encoder, self.names, images)


@dataclass(frozen=True)
class LayerAttack(EncoderAttack):
    """Climbs an objective of activations; subclasses give the objective and the step sizes."""

    layer: str = ""
    """Name of the layer; empty finds it by ``depth``."""
    depth: Share = 0.5
    """Where the layer lies, 0 for the first and 1 for the last."""
    steps: Count = 300
    batch_size: Count = 64

    def layers(self, encoder: nn.Module, surrogate: Tensor) -> dict[str, str]:
        """Return the names of the attacked layers under the names that the record gives them."""
        return {"layer": layer_at(encoder, surrogate, self.depth, self.layer)}

    def require(self, target: nn.Module, pixels: Tensor, classes: int) -> None:
        """Refuse an encoder that has no such layer."""
        super().require(target, pixels, classes)
        self.layers(target, pixels)

    @abstractmethod
    def objective(self, layers: AttackedLayers, images: Tensor, delta: Tensor) -> Tensor:
        """Return the scalar to climb, for images (B, C, H, W) and a perturbation (C, H, W)."""

    @abstractmethod
    def step_sizes(self) -> list[float]:
        """Return the length of every step, in pixel units."""

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Climb."""
        names = self.layers(encoder, surrogate)
        layers = AttackedLayers(encoder, list(names.values()), input_space(encoder, surrogate), generator)
        batches = image_batches(surrogate, self.batch_size, generator)
        start = self.threat.start(surrogate[0], generator)
        delta = sign_ascent(
            lambda delta: self.objective(layers, next(batches), delta), start, self.threat, self.step_sizes()
        )
        return Perturbation(delta, self.threat, details={**names})
