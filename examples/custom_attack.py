"""A third party's attack in one file: the perturbation that makes all images look alike to the encoder.

    python examples/custom_attack.py

The decorator makes it known wherever attacks are named: ``load_attack("collapse")`` or
``evaluate(..., attacks=["collapse"])``. A package that is installed beside genaf-sdk registers its own without any
import, by an entry point in its pyproject.toml, and ``genaf attack collapse`` finds it too:

    [project.entry-points."genaf_sdk.attacks"]
    collapse = "my_package.collapse:Collapse"
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk import load_data, load_encoder
from genaf_sdk.attacks import EncoderAttack, Perturbation, load_attack, register
from genaf_sdk.attacks.ascent import linear_decay, sign_ascent
from genaf_sdk.attacks.batches import image_batches
from genaf_sdk.inputs.images import input_space
from genaf_sdk.settings import Count


@register
@dataclass(frozen=True)
class Collapse(EncoderAttack):
    """Maximizes the cosine similarity between the features of every two perturbed images of a batch."""

    name = "collapse"
    source = "examples/custom_attack.py"

    steps: Count = 100
    batch_size: Count = 64

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Ascend; seeds, eval mode, budgets and checks are the template's business."""
        space, batches = input_space(encoder, surrogate), image_batches(surrogate, self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            features = F.normalize(encoder(space.add(next(batches), delta)), dim=1)
            return (features @ features.T).mean()

        start = self.threat.start(surrogate[0], generator)
        delta = sign_ascent(objective, start, self.threat, linear_decay(self.budget / 5, self.steps))
        return Perturbation(delta, self.threat)


if __name__ == "__main__":
    images, _ = load_data("digits", image_size=(32, 32)).test.sample(256)
    encoder = load_encoder("bundled:simclr-cifar10")
    for attack in (load_attack("noise"), load_attack("collapse")):
        with torch.no_grad():
            features = F.normalize(encoder(attack(encoder, images).apply(images)), dim=1)
        print(f"{attack.name}: mean cosine similarity between images {float((features @ features.T).mean()):.3f}")
