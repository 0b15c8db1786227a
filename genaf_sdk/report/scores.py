"""Figures with their uncertainty: one row of a report, and the interval that belongs to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Column = Literal["clean", "noise", "transfer", "adaptive", "white-box"]
Z_95 = 1.959963984540054


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson, JASA 1927), as shares in [0, 1]."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = correct / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True)
class Score:
    """Accuracy of one model under one attack.

    Args:
        model: ``hardened`` or ``undefended``.
        column: What the attacker knew: nothing (noise), the published encoder (transfer), the model's own encoder
            (adaptive), everything (white-box).
        attack: Name of the attack; empty for clean images.
        budget: L_inf budget in pixel units, or the area of a patch; 0 for clean images.
        n: How many test images.
        correct: How many of them were classified right.
        changed: Of how many of them the predicted class differs from that of the clean image.
        crafted_on: Which images the perturbation was crafted on: ``surrogate``, ``train`` or ``test`` (sample-wise).
        perturbation: Key of the saved perturbation; empty where none is saved.
        seconds: Time to craft it.
    """

    model: str
    column: Column
    attack: str
    budget: float
    n: int
    correct: int
    changed: int
    crafted_on: str = ""
    perturbation: str = ""
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        """Robust test accuracy (RTA), a share in [0, 1]."""
        return self.correct / self.n

    @property
    def success_rate(self) -> float:
        """Attack success rate: share of the predictions that the attack changed."""
        return self.changed / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(self.correct, self.n)

    def to_dict(self) -> dict[str, str | int | float | list[float]]:
        """Return plain objects; accuracy, rate and interval are stated beside the counts they follow from."""
        return {
            "model": self.model,
            "column": self.column,
            "attack": self.attack,
            "budget": self.budget,
            "n": self.n,
            "correct": self.correct,
            "changed": self.changed,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "success_rate": self.success_rate,
            "crafted_on": self.crafted_on,
            "perturbation": self.perturbation,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy of one model under one attack at one budget."""

    model: str
    column: Column
    attack: str
    budget: float
    n: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Robust test accuracy, a share in [0, 1]."""
        return self.correct / self.n


@dataclass(frozen=True)
class Check:
    """A sanity check: whether it passed, and the figures that decided it."""

    name: str
    passed: bool
    figures: str
