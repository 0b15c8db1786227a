"""RiFT: PGD-AT, then the one module that robustness depends on least learns from clean images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from genaf_sdk.methods.adaptability import Adaptability, adaptability_passes, adaptability_stages
from genaf_sdk.methods.base import METHODS, Strength
from genaf_sdk.methods.pgd_at import PGDAT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genaf_sdk.engine.stage import Stage
    from genaf_sdk.methods.lab import Lab


@METHODS.register
@dataclass(frozen=True)
class RiFT(PGDAT):
    """PGD-AT, then ``CE(f(x), y)`` in one layer, then interpolation as far as robustness allows."""

    name: ClassVar[str] = "rift"
    source: ClassVar[str] = (
        "Zhu et al., Improving Generalization of Adversarial Training via Robust Critical Fine-Tuning, ICCV 2023"
    )
    strengths: ClassVar[Mapping[str, Strength]] = {
        "rift": Strength(
            "PGD-AT, then the one module that robustness depends on least learns from clean images, with "
            "interpolation.",
            protects="What PGD-AT protects against.",
            leaves_open="What PGD-AT leaves open.",
        )
    }

    adaptability: Adaptability = Adaptability(redundant_fraction=1e-6, epochs=10, probe_epochs=0)

    @property
    def later_passes_may_grow(self) -> bool:
        """Whether a probe decides on stage 2."""
        return self.adaptability.is_probed

    def later_passes(self, lab: Lab) -> float:
        """Return those of stage 2."""
        return adaptability_passes(lab, self.adaptability)

    def stages(self, lab: Lab) -> Iterator[Stage]:
        """Yield PGD-AT's stage, then the fine-tuning of one layer."""
        first = lab.stage("stage 1", self)
        yield first
        if self.adaptability.epochs:
            yield from adaptability_stages(lab, self.adaptability, first)
