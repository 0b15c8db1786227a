"""Ordinary fine-tuning, and the linear probe: cross-entropy on clean images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from genaf_sdk.engine.schedule import Schedule
from genaf_sdk.engine.stage import Losses, Outputs, Stage, Views
from genaf_sdk.methods.base import METHODS, Method, Strength
from genaf_sdk.methods.losses import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from genaf_sdk.engine.adversary import Adversary
    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.methods.lab import Lab


@METHODS.register
@dataclass(frozen=True)
class FineTuning(Method):
    """``CE(f(x), y)``."""

    name: ClassVar[str] = "fine-tuning"
    source: ClassVar[str] = "common practice"
    strengths: ClassVar[Mapping[str, Strength]] = {
        "fine-tuning": Strength(
            "Encoder and head learn on clean images.",
            protects="Nothing by design; a large encoder learning rate blunts transferred perturbations somewhat.",
            leaves_open="Everything.",
        )
    }

    schedule: Schedule = Schedule(epochs=32)

    def views(self, model: nn.Module, batch: Batch, adversary: Adversary | None) -> Views:
        """Return the images of ``batch`` as they are; ``model`` and ``adversary`` play no part."""
        del model, adversary
        return (batch.inputs,)

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        """Return the cross-entropy of every row of ``batch`` from ``outputs``."""
        return Losses(cross_entropy(outputs.logits[0], batch.labels))


@METHODS.register
@dataclass(frozen=True)
class LinearProbe(FineTuning):
    """``CE(h(g(x)), y)`` with the encoder g as it was published; only the head h is trained."""

    name: ClassVar[str] = "linear-probe"
    strengths: ClassVar[Mapping[str, Strength]] = {
        "linear-probe": Strength(
            "Only the head learns, on clean images.",
            protects="Nothing.",
            leaves_open="Everything: the deployed encoder is the one that the attacker has.",
        )
    }

    schedule: Schedule = Schedule(epochs=48)

    def stages(self, lab: Lab) -> Iterator[Stage]:
        """Yield one stage; batch statistics of the encoder stay, too."""
        yield lab.stage("stage 1", self, trains=_is_of_the_head, train_mode=_only_the_head_trains)


def _is_of_the_head(parameter: str) -> bool:
    return parameter.startswith("head.")


def _only_the_head_trains(model: nn.Module) -> None:
    model.train()
    model.get_submodule("encoder").eval()
