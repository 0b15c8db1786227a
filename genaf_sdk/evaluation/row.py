"""What an evaluation has on its way: rows of the report, and the perturbations that make them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from torch import Tensor

from genaf_sdk.attacks.base import Attack
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.inputs.perturbation import Perturbation


@dataclass
class Row:
    """One row of the report on its way: what is put on the images of one model, and what the model then says.

    Args:
        model: Whose row it is.
        column: What the attacker knows.
        attack: The attack; None for clean images and replayed perturbations.
        perturbation: What is put on every image; None for clean images and sample-wise attacks.
        source: Which images were crafted on.
        predicted: Class of each image (N,), once it is known.
        seconds: Time to craft.
    """

    model: EvaluatedModel
    column: Knowledge
    attack: Attack | None = None
    perturbation: Perturbation | None = None
    source: str = ""
    predicted: Tensor | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Name of the attack; empty for clean images."""
        if self.attack is not None:
            return self.attack.name
        return self.perturbation.attack or "unnamed" if self.perturbation is not None else ""

    @property
    def is_sample_wise(self) -> bool:
        """Whether every image is perturbed by itself."""
        return self.attack is not None and self.perturbation is None


@dataclass(frozen=True)
class Begun:
    """The tries of an attack on their way, and the rows of the report that the strongest makes.

    Args:
        column: What the attacker knows.
        attack: What crafts them.
        models: Those that they are put before, each in a row.
        source: Which images they are crafted on.
        future: The perturbations once they are there, the one that the attacker would choose first.
        owner: The model on which they are crafted; empty for the published encoder.
    """

    column: Knowledge
    attack: Attack
    models: tuple[EvaluatedModel, ...]
    source: str
    future: Future[list[Perturbation]]
    owner: str = ""

    def is_same(self, column: Knowledge, attack: Attack, source: str, owner: str) -> bool:
        """Return whether they are what this attack makes, on that model and from these images."""
        return (self.column, self.attack, self.source, self.owner) == (column, attack, source, owner)

    def made(self) -> list[Perturbation]:
        """Wait for the perturbations; none where crafting failed."""
        return [] if self.future.exception() is not None else self.future.result()
