"""Gen-AF (Zhou et al., IEEE S&P 2024): genetic-directed dual-track fine-tuning, then adaptability fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from genaf_sdk.engine.stage import Losses, Outputs, Stage, Views
from genaf_sdk.errors import ConfigError
from genaf_sdk.methods.adaptability import Adaptability, adaptability_passes, adaptability_stages
from genaf_sdk.methods.against import Against
from genaf_sdk.methods.base import METHODS, Method, Strength
from genaf_sdk.methods.genetic import genetic_regularization
from genaf_sdk.methods.losses import cross_entropy
from genaf_sdk.methods.mixture import Mixture
from genaf_sdk.methods.pgd import PGD
from genaf_sdk.settings import Between

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from genaf_sdk.engine.adversary import Adversary
    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.methods.lab import Lab

Weight = Annotated[float, Between(0.0, 1e6)]


@METHODS.register
@dataclass(frozen=True)
class GenAF(Method):
    """``a CE(h(g(x')), y) + c CE(h(g(x)), y) + lambda L_gr``, then the least sensitive layers on clean data.

    Stage 1 trains encoder g and head h on adversarial images x' and on clean ones x; ``genetic_regularization`` is
    L_gr. Stage 2 is in ``adaptability.py``.
    """

    name: ClassVar[str] = "gen-af"
    source: ClassVar[str] = (
        "Zhou et al., Securely Fine-tuning Pre-trained Encoders Against Adversarial Examples, IEEE S&P 2024"
    )
    strengths: ClassVar[Mapping[str, Strength]] = {
        "default": Strength(
            "Gen-AF against a mixture: universal perturbations and patches that it learns on the way, and few-step "
            "sample-wise ones.",
            protects="Universal perturbations and patches, transferred or adaptive; sample-wise attacks of small "
            "budget.",
            leaves_open="Sample-wise attacks of large budget on hard tasks; see the white-box rows of the report.",
        ),
        "strict": Strength(
            "`default` in four times the epochs: more accurate and harder to attack where images are few.",
            protects="What `default` does, with more left under universal perturbations.",
            leaves_open="Sample-wise attacks of large budget on hard tasks; see the white-box rows of the report.",
            changes={"schedule": {"epochs": 80}},
        ),
        "fast": Strength(
            "`default` in two thirds of the epochs and without stage 2: about the time of ordinary fine-tuning.",
            protects="What `default` does, with less left under each threat.",
            leaves_open="Sample-wise attacks; clean accuracy suffers where images are few.",
            changes={"schedule": {"epochs": 13}, "adaptability": {"epochs": 0}},
        ),
        "paper": Strength(
            "Gen-AF with the paper's losses and hyper-parameters.",
            protects="Sample-wise and universal attacks, as far as the paper's schedule carries.",
            leaves_open="Patches, which it never sees; clean accuracy suffers.",
            changes={
                "schedule": {
                    "epochs": 50,
                    "batch_size": 256,
                    "encoder_learning_rate": 1e-4,
                    "head_learning_rate": 5e-3,
                    "decay": "exponential",
                },
                "adversarial_weight": 1.0,
                "genetic_weight": 2.5,
                "against": PGD(epsilon=8 / 255, step_size=2 / 255, steps=10, ramp=0.0),
                "adaptability": {"epochs": 20, "probe_epochs": 0, "batch_size": 256, "learning_rate": 1e-3},
            },
            baseline={"epochs": 50},
        ),
    }

    against: Against = Mixture()
    adversarial_weight: Weight = 2.0
    """Weight of the cross-entropy on adversarial images."""
    clean_weight: Weight = 1.0
    """Weight of the cross-entropy on clean images."""
    genetic_weight: Weight = 1.0
    """Lambda, for L_gr as a mean over rows (the authors' sum over pairs divided by the batch size)."""
    adaptability: Adaptability = Adaptability()

    def check(self) -> None:
        """Refuse a loss without a cross-entropy.

        Raises:
            ConfigError: Both weights are 0.
        """
        if self.adversarial_weight + self.clean_weight == 0:
            raise ConfigError("adversarial_weight + clean_weight is 0.", expected="a positive sum")

    @property
    def compares_rows(self) -> bool:
        """Whether L_gr, which compares every two rows, is part of the loss."""
        return self.genetic_weight > 0

    def views(self, model: nn.Module, batch: Batch, adversary: Adversary | None) -> Views:
        """Return the images of ``batch`` perturbed by ``adversary`` against ``model``, and clean: the two tracks."""
        return (batch.inputs if adversary is None else adversary.perturb(model, batch), batch.inputs)

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        """Return the loss of every row of ``batch`` from ``outputs``; a term of weight 0 is not computed."""
        (attacked, clean), (attacked_logits, clean_logits) = outputs.features, outputs.logits
        adversarial_ce = cross_entropy(attacked_logits, batch.labels)
        clean_ce = cross_entropy(clean_logits, batch.labels)
        rows = self.adversarial_weight * adversarial_ce + self.clean_weight * clean_ce
        terms = {"adversarial": adversarial_ce, "clean": clean_ce}
        if self.genetic_weight:
            terms["genetic"] = genetic_regularization(attacked, clean, batch, weight=clean_ce)
            rows = rows + self.genetic_weight * terms["genetic"]
        return Losses(rows, terms)

    @property
    def later_passes_may_grow(self) -> bool:
        """Whether a probe decides on stage 2."""
        return self.adaptability.is_probed

    def later_passes(self, lab: Lab) -> float:
        """Return those of stage 2."""
        return adaptability_passes(lab, self.adaptability)

    def stages(self, lab: Lab) -> Iterator[Stage]:
        """Yield stage 1, and stage 2 unless it has no epochs."""
        first = lab.stage("stage 1", self)
        yield first
        if self.adaptability.epochs:
            yield from adaptability_stages(lab, self.adaptability, first)
