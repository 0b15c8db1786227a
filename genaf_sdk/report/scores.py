"""What was counted: the rows of a report, and the interval that belongs to a count."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from genaf_sdk.errors import OutputError
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.reading import Amount, Length, Number, Positive, Spelled
from genaf_sdk.settings import Between

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Check", "CurvePoint", "Failure", "Knowledge", "Role", "Score", "is_universal", "wilson_interval"]

Z_95 = 1.959963984540054
NAME = Length(0, 500)


class Role(StrEnum):
    """Which model a row is about; the spelling in reports."""

    HARDENED = "hardened"
    """The model under test."""
    BASELINE = "undefended"
    """The same encoder after standard fine-tuning."""


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson, JASA 1927), as shares in [0, 1]."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = correct / n, Z_95**2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if correct == 0 else max(0.0, center - half)
    high = 1.0 if correct == n else min(1.0, center + half)
    return low, high


Budget = Annotated[float, Between(0.0, 1.0)]


@dataclass(frozen=True)
class Score:
    """Accuracy of one model under one attack.

    Args:
        model: Whether it is the hardened model or the baseline.
        column: What the attacker knew: nothing (noise), the published encoder (transfer), the model's own encoder
            (adaptive), everything (white-box).
        attack: Name of the attack; empty for clean images.
        budget: Largest change of a pixel as a share of the pixel range (8/255 is 0.0314); for a patch, the share of the
            area it may cover; 0 for clean images.
        n: Number of test images.
        correct: How many of them were classified right.
        changed: For how many of them the predicted class differs from that of the clean image.
        crafting_data: Which images the perturbation was crafted on: ``surrogate``, ``train``, ``test`` (each test
            image by itself) or ``replayed`` (a saved perturbation); empty for clean images.
        perturbation: Name of the file in ``perturbations/``, without its ending; empty where none is saved.
        seconds: Time to craft it.
        threat: Whether the budget is that of an L_inf perturbation (``linf``) or a patch's (``patch``); reports of
            older versions do not say it.
        converged: Whether held-out images had stopped to fall when the attack ended; null where it does not say.
        tries: Of how many tries of the attack it is the one that did most to training images with labels.
    """

    derived: ClassVar[dict[str, str]] = {
        "accuracy": "accuracy",
        "interval": "interval",
        "success_rate": "fooling_rate",
    }

    model: Role
    column: Knowledge
    attack: Annotated[str, NAME]
    budget: Budget
    n: Positive
    correct: Number
    changed: Number
    crafting_data: Annotated[Literal["", "surrogate", "train", "test", "replayed"], Spelled("crafted_on")] = ""
    perturbation: Annotated[str, NAME] = ""
    seconds: Amount = 0.0
    threat: Literal["", "linf", "patch"] = ""
    converged: bool | None = None
    tries: Positive = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", Role(self.model))
        object.__setattr__(self, "column", Knowledge(self.column))
        if not self.threat and self.attack:  # older rows: one attack of this package put a patch on the image
            object.__setattr__(self, "threat", "patch" if self.attack == "advencoder-pat" else "linf")
        if not (0 <= self.correct <= self.n and 0 <= self.changed <= self.n):
            raise OutputError(
                f"{self.correct} right and {self.changed} changed predictions are counted of {self.n} images.",
                expected="at most as many as there are images",
            )
        if bool(self.attack) == (self.column == Knowledge.CLEAN):
            raise OutputError(
                f"A row of the column {self.column} names the attack {self.attack!r}.",
                expected="an attack in every column but clean",
            )

    @property
    def accuracy(self) -> float:
        """Robust test accuracy (RTA), a share in [0, 1]: correct / n."""
        return self.correct / self.n

    @property
    def fooling_rate(self) -> float:
        """Share of the predictions that the attack changed, right or wrong before: changed / n."""
        return self.changed / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(self.correct, self.n)

    @property
    def is_patch(self) -> bool:
        """Whether the budget is an area."""
        return self.threat == "patch"


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy of one model under one attack at one L_inf budget.

    Args:
        model: As in the rows.
        column: As in the rows.
        attack: As in the rows.
        budget: As in the rows.
        n: Number of test images.
        correct: How many of them were classified right.
    """

    derived: ClassVar[dict[str, str]] = {"accuracy": "accuracy"}

    model: Role
    column: Knowledge
    attack: Annotated[str, NAME]
    budget: Budget
    n: Positive
    correct: Number

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", Role(self.model))
        object.__setattr__(self, "column", Knowledge(self.column))
        if not 0 <= self.correct <= self.n:
            raise OutputError(f"{self.correct} of {self.n} images are counted as right.", expected="at most all")

    @property
    def accuracy(self) -> float:
        """Robust test accuracy, a share in [0, 1]: correct / n."""
        return self.correct / self.n


@dataclass(frozen=True)
class Check:
    """A sanity check.

    Args:
        name: What was checked.
        passed: Whether it held.
        figures: What decided it.
    """

    name: str
    passed: bool
    figures: str


@dataclass(frozen=True)
class Failure:
    """Something that was to be done and could not: an attack that has no row, a file that was not written.

    Args:
        part: ``attack``, ``report`` or ``export``.
        name: Name of the attack or file.
        error: What went wrong.
        column: The attacker whose row is missing; empty for files.
        model: Whose row is missing; empty where it is that of every model.
    """

    part: Literal["attack", "report", "export"]
    name: str
    error: str
    column: str = ""
    model: str = ""

    @property
    def text(self) -> str:
        """One line for people."""
        place = ", ".join(part for part in (self.column, self.model) if part)
        return f"{self.part} {self.name}{f' ({place})' if place else ''} failed: {self.error}"


def is_universal(score: Score) -> bool:
    """Whether a row belongs to one perturbation for all images, crafted by an attack (noise is none)."""
    return bool(score.perturbation) and score.column != Knowledge.NOISE


def lowest_accuracy(scores: Iterable[Score]) -> Score | None:
    """Return the row of lowest accuracy, the first of several; None where there is no row."""
    return min(scores, key=lambda score: score.accuracy, default=None)
