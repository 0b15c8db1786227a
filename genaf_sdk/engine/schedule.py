"""How long and how fast a stage trains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from genaf_sdk.settings import AtLeast, Between, Count, LearningRate, Settings, Share

WARM_UP = 0.05
"""Share of a stage in which the learning rates rise to what is set."""

STEPS, SMALLEST_BATCH, LARGEST_BATCH = 1000, 32, 128
"""What ``batch_size="auto"`` aims at, and between what it stays."""


@dataclass(frozen=True)
class Schedule(Settings):
    """Epochs, batches, learning rates and augmentation of a stage."""

    epochs: Count = 20
    """Passes over the training images."""
    batch_size: Annotated[int, AtLeast(2)] | Literal["auto"] = "auto"
    """Global batch size, across all processes. Batch statistics and losses that compare rows need pairs. ``auto`` is
    128, and down to 32 where the stage would else have fewer than 1,000 steps."""
    encoder_learning_rate: LearningRate | Literal["auto"] | None = "auto"
    """``auto`` finds it by a short range test on training images; None derives it from the encoder's size, as earlier
    versions did."""
    head_learning_rate: LearningRate = 5e-3
    """Of what turns features into logits."""
    weight_decay: Share = 8e-4
    """Adam's, an L2 penalty on all weights that are trained."""
    decay: Literal["cosine", "exponential"] = "cosine"
    """Of the learning rates: ``cosine`` warms up, then falls to zero; ``exponential`` multiplies them by 0.96 an epoch,
    as the paper does."""
    shift: Annotated[int, Between(0, 64)] = 2
    """Augmentation: random translation by up to so many pixels (edges repeated)."""
    augmentation: Literal["none", "flip", "crop", "trivial"] = "none"
    """``flip``: half of the images are mirrored. ``crop``: also a random crop of 50 to 100 % of the area. ``trivial``:
    also one random change (TrivialAugment, Müller & Hutter, ICCV 2021)."""

    def batch(self, images: int) -> int:
        """Return the batch size that is set, or one by which the stage has about ``STEPS`` steps on so many ``images``.

        Weights and universal perturbations move once a step: with few images, large batches leave both where they were.
        """
        if self.batch_size != "auto":
            return self.batch_size
        return min(max(self.epochs * images // STEPS, SMALLEST_BATCH), LARGEST_BATCH)

    def encoder_rate(self, parameters: int) -> float:
        """Return the encoder's learning rate: the one that is set, else one for an encoder of so many parameters.

        3e-3 suits the bundled encoder of 0.6 million. Larger ones get one that falls with their width, as Adam asks for
        (Yang et al., Tensor Programs V, 2022), taken to be the root of their size: ResNet-18 7e-4, ViT-S 5e-4.
        """
        if isinstance(self.encoder_learning_rate, float):
            return self.encoder_learning_rate
        return 3e-3 * min(1.0, math.sqrt(6e5 / max(parameters, 1)))

    def factor(self, done: float) -> float:
        """Return what the learning rates are multiplied by once the share ``done`` of the steps, in [0, 1), is done."""
        if self.decay == "exponential":
            return float(0.96 ** math.floor(done * self.epochs + 1e-9))
        if done < WARM_UP:
            return max(done / WARM_UP, 0.02)
        return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
