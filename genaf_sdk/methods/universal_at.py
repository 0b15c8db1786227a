"""Universal adversarial training: the perturbations learn from the training step's own gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from genaf_sdk.engine.schedule import Schedule
from genaf_sdk.methods.against import Against
from genaf_sdk.methods.base import METHODS, Strength
from genaf_sdk.methods.mixture import Mixture
from genaf_sdk.methods.pgd_at import PGDAT


@METHODS.register
@dataclass(frozen=True)
class UniversalAT(PGDAT):
    """``CE(f(x + d_k), y)`` over a bank of d_k; what it trains against alone tells it from PGD-AT."""

    name: ClassVar[str] = "universal-at"
    source: ClassVar[str] = "Shafahi et al., Universal Adversarial Training, AAAI 2020"
    strengths: ClassVar[Mapping[str, Strength]] = {
        "universal-at": Strength(
            "Cross-entropy under a bank of universal perturbations that learn from the training step's gradient.",
            protects="Universal perturbations.",
            leaves_open="Patches, sample-wise attacks.",
        )
    }

    schedule: Schedule = Schedule(epochs=50)
    against: Against = Mixture(universal_epsilon=10 / 255, sample_wise_share=0.0, patch_share=0.0)
    """12/255, Gen-AF's, served this method worse (GTSRB, 20,000 images, worst DAE 82.7 instead of 86.3)."""
