"""MART: boosted cross-entropy on adversarial images, divergence where the clean image is not classified surely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch

from genaf_sdk.engine.schedule import Schedule
from genaf_sdk.engine.stage import Losses, Outputs
from genaf_sdk.methods.against import Against
from genaf_sdk.methods.base import METHODS, Strength
from genaf_sdk.methods.losses import cross_entropy, divergence
from genaf_sdk.methods.pgd import PGD
from genaf_sdk.methods.pgd_at import PATCHES_AND_CLEAN, SAMPLE_WISE
from genaf_sdk.methods.trades import TRADES
from genaf_sdk.settings import Between

if TYPE_CHECKING:
    from genaf_sdk.engine.batches import Batch


@METHODS.register
@dataclass(frozen=True)
class MART(TRADES):
    """``BCE(p(x'), y) + beta KL(p(x) || p(x')) (1 - p(x)_y)`` (equations 8 and 11).

    The boosted cross-entropy adds ``-log(1 - max of the other classes)`` to the ordinary one.
    """

    name: ClassVar[str] = "mart"
    source: ClassVar[str] = (
        "Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified Examples, ICLR 2020"
    )
    strengths: ClassVar[Mapping[str, Strength]] = {
        "mart": Strength(
            "Boosted cross-entropy on PGD's images; divergence where the clean image is not classified surely.",
            SAMPLE_WISE,
            PATCHES_AND_CLEAN,
        )
    }

    schedule: Schedule = Schedule(epochs=26)
    against: Against = PGD()
    beta: Annotated[float, Between(0.0, 1e6)] = 1.0
    """Weight of the divergence (the paper's lambda)."""

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        """Return the loss of every row of ``batch`` from ``outputs``."""
        attacked, clean = outputs.logits
        others = attacked.softmax(dim=1).scatter(1, batch.labels[:, None], 0.0).amax(dim=1)
        boosted = cross_entropy(attacked, batch.labels) - torch.log1p(-others.clamp(max=1 - 1e-6))
        unsure = 1 - clean.softmax(dim=1).gather(1, batch.labels[:, None])[:, 0]
        moved = divergence(clean, attacked) * unsure
        return Losses(boosted + self.beta * moved, {"adversarial": boosted, "divergence": moved})
