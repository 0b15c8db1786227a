"""PAP (L4A), fused form: lift the activations of two low layers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.layers import layer_at
from genaf_sdk.attacks.pap_base import PapBase
from genaf_sdk.attacks.registry import register
from genaf_sdk.settings import Share

if TYPE_CHECKING:
    from torch import Tensor, nn

    from genaf_sdk.attacks.layer_attack import AttackedLayers


@register
@dataclass(frozen=True)
class PapFuse(PapBase):
    """Maximizes ``mean(h_l(x + d)^2) + second_weight mean(h_k(x + d)^2)`` at two low layers l and k.

    Native budget 0.05 and step 2e-4; the budget here is the one of the joint tables.
    """

    name = "pap-fuse"
    source = "Ban and Dong, Pre-trained Adversarial Perturbations, NeurIPS 2022 (L4A-fuse)"

    depth: Share = 0.0
    """Where the first layer lies, 0 for the first and 1 for the last."""
    second_layer: str = ""
    """Name of the second layer; empty finds it by ``second_depth``."""
    second_depth: Share = 0.25
    second_weight: float = 1.0

    def layers(self, encoder: nn.Module, surrogate: Tensor) -> dict[str, str]:
        """Return both layers."""
        second = layer_at(encoder, surrogate, self.second_depth, self.second_layer)
        return {**super().layers(encoder, surrogate), "second_layer": second}

    def objective(self, layers: AttackedLayers, images: Tensor, delta: Tensor) -> Tensor:
        """Return the weighted sum of the mean squares."""
        first, second = layers(layers.space.add(images, delta))
        return first.square().mean() + self.second_weight * second.square().mean()
