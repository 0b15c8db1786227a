"""PGD-AT: adversarial training on PGD's images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from genaf_sdk.engine.schedule import Schedule
from genaf_sdk.engine.stage import Losses, Outputs, Views
from genaf_sdk.methods.against import Against
from genaf_sdk.methods.base import METHODS, Method, Strength
from genaf_sdk.methods.losses import cross_entropy
from genaf_sdk.methods.pgd import PGD

if TYPE_CHECKING:
    from torch import nn

    from genaf_sdk.engine.adversary import Adversary
    from genaf_sdk.engine.batches import Batch

SAMPLE_WISE = "Sample-wise attacks within the budget, and universal perturbations with them."
PATCHES_AND_CLEAN = "Patches; clean accuracy suffers."


@METHODS.register
@dataclass(frozen=True)
class PGDAT(Method):
    """``CE(f(x'), y)``, x' by PGD.

    One step from a random start, as Wong et al. (ICLR 2020): at the same cost, one long step in more epochs beat two,
    four or ten in fewer, for every method that uses it (GTSRB, 3,000 images). Its failure, robustness against the one
    step alone, would show under PGD with 20.
    """

    name: ClassVar[str] = "pgd-at"
    source: ClassVar[str] = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018"
    strengths: ClassVar[Mapping[str, Strength]] = {
        "pgd-at": Strength("Cross-entropy on PGD's images.", SAMPLE_WISE, PATCHES_AND_CLEAN)
    }

    schedule: Schedule = Schedule(epochs=38)
    against: Against = PGD()

    def views(self, model: nn.Module, batch: Batch, adversary: Adversary | None) -> Views:
        """Return the images of ``batch`` perturbed by ``adversary`` against ``model``, and nothing else."""
        return (batch.inputs if adversary is None else adversary.perturb(model, batch),)

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        """Return the cross-entropy of every adversarial row of ``batch`` from ``outputs``."""
        return Losses(cross_entropy(outputs.logits[0], batch.labels))
