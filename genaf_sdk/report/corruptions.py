"""Accuracy on commonly corrupted images: the section, and what the written forms say of it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, ClassVar

from genaf_sdk.errors import OutputError
from genaf_sdk.report.reading import Length, Number, Positive
from genaf_sdk.report.scores import Role


@dataclass
class CorruptionRow:
    """Accuracy of one model under one kind of corruption.

    Args:
        model: Whether it is the hardened model or the baseline.
        kind: Noise, blur, weather or compression.
        n: Number of test images, the first in the evaluation's order.
        correct: How many are classified right, by strength from 1 to 5.
    """

    derived: ClassVar[dict[str, str]] = {"accuracy": "accuracy"}

    model: Role
    kind: Annotated[str, Length(1, 100)]
    n: Positive
    correct: Annotated[list[Number], Length(5, 5)]

    def __post_init__(self) -> None:
        if max(self.correct) > self.n:
            raise OutputError(f"{self.correct} of {self.n} images are counted as right.", expected="at most all")

    @property
    def accuracy(self) -> float:
        """Share of right answers, the mean over the strengths."""
        return fmean(self.correct) / self.n


@dataclass
class CorruptionSection:
    """Accuracy on corrupted images, which nobody chose to deceive the model.

    Args:
        rows: One for each model and kind.
    """

    rows: list[CorruptionRow]

    def of(self, model: str) -> list[CorruptionRow]:
        """Return the rows of one model."""
        return [row for row in self.rows if row.model == model]

    def mean(self, model: str) -> float | None:
        """Return the mean accuracy over kinds and strengths; None where the model has no row."""
        rows = self.of(model)
        return fmean(row.accuracy for row in rows) if rows else None

    def by_kind(self) -> dict[str, dict[str, CorruptionRow]]:
        """Return the rows by kind, then by model."""
        found: dict[str, dict[str, CorruptionRow]] = {}
        for row in self.rows:
            found.setdefault(row.kind, {})[row.model] = row
        return found


def corruption_text(section: CorruptionSection | None) -> str:
    """Return mean and lowest accuracy of the hardened model in one sentence; empty where nothing was tried."""
    rows = section.of(Role.HARDENED) if section is not None else []
    if section is None or not rows:
        return ""
    worst, before = min(rows, key=lambda row: row.accuracy), section.mean(Role.BASELINE)
    return (
        f"Under common corruptions: {section.mean(Role.HARDENED):.1%} on average over {len(rows)} kinds in five "
        f"strengths{'' if before is None else f' ({before:.1%} without hardening)'}, "
        f"{worst.accuracy:.1%} under {worst.kind} (n = {rows[0].n})."
    )
