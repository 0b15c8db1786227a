"""TRADES: the divergence of the prediction under attack, beside the clean cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from genaf_sdk.engine.schedule import Schedule
from genaf_sdk.engine.stage import Losses, Outputs, Views
from genaf_sdk.methods.against import Against
from genaf_sdk.methods.base import METHODS, Strength
from genaf_sdk.methods.losses import cross_entropy, divergence
from genaf_sdk.methods.pgd import PGD
from genaf_sdk.methods.pgd_at import PATCHES_AND_CLEAN, PGDAT, SAMPLE_WISE
from genaf_sdk.settings import Between

if TYPE_CHECKING:
    from torch import nn

    from genaf_sdk.engine.adversary import Adversary
    from genaf_sdk.engine.batches import Batch


@METHODS.register
@dataclass(frozen=True)
class TRADES(PGDAT):
    """``CE(f(x), y) + beta KL(p(x) || p(x'))``; x' moves the prediction, whatever the label (equation 5)."""

    name: ClassVar[str] = "trades"
    source: ClassVar[str] = (
        "Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019"
    )
    strengths: ClassVar[Mapping[str, Strength]] = {
        "trades": Strength(
            "Cross-entropy on clean images, and the divergence of the prediction under attack.",
            SAMPLE_WISE,
            PATCHES_AND_CLEAN,
        )
    }

    schedule: Schedule = Schedule(epochs=26)
    against: Against = PGD(away_from="prediction")
    beta: Annotated[float, Between(0.0, 1e6)] = 1.0
    """Weight of the divergence."""

    def views(self, model: nn.Module, batch: Batch, adversary: Adversary | None) -> Views:
        """Return the images of ``batch`` perturbed by ``adversary`` against ``model``, and clean."""
        return (*super().views(model, batch, adversary), batch.inputs)

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        """Return the loss of every row of ``batch`` from ``outputs``."""
        attacked, clean = outputs.logits
        clean_ce, moved = cross_entropy(clean, batch.labels), divergence(clean, attacked)
        return Losses(clean_ce + self.beta * moved, {"clean": clean_ce, "divergence": moved})
