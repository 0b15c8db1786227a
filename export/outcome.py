"""What a verification found: one item for everything that a bundle states."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from genaf_sdk.export.layout import MODEL_FILE, WEIGHTS_FILE

WEIGHTS_TIE = f"{WEIGHTS_FILE} against {MODEL_FILE}"
"""The item that ties the weights to the graph, of which all figures are."""


class Outcome(StrEnum):
    """What was done about a statement."""

    REPLAYED = "replayed"
    """Measured again on the verifier's data, by the files of the bundle."""
    RECOMPUTED = "recomputed"
    """Derived again from other parts of the bundle."""
    SIGNED = "signed"
    """Covered by the signature of somebody whom the verifier trusts."""
    ATTACKED = "attacked anew"
    """Measured under an attack of the verifier's own."""
    NOT_REPLAYED = "not replayed"
    """Nothing is known of it."""


@dataclass(frozen=True)
class Item:
    """One statement of a bundle.

    Args:
        what: Which one.
        outcome: What was done about it.
        agrees: Whether it holds; None where it was not looked at.
        stated: What the bundle says.
        found: What was found instead, or why nothing was.
    """

    what: str
    outcome: Outcome
    agrees: bool | None
    stated: str = ""
    found: str = ""


def recomputed(what: str, agrees: bool, stated: str = "", found: str = "") -> Item:
    """Return an item that follows from other parts of the bundle."""
    return Item(what, Outcome.RECOMPUTED, agrees, stated, found)


def replayed(what: str, agrees: bool, stated: str = "", found: str = "") -> Item:
    """Return an item that was measured again."""
    return Item(what, Outcome.REPLAYED, agrees, stated, found)


def not_replayed(what: str, stated: str = "", why: str = "") -> Item:
    """Return an item of which nothing is known."""
    return Item(what, Outcome.NOT_REPLAYED, None, stated, why)


@dataclass
class Verification:
    """Everything that was looked at, and everything that was not.

    Args:
        items: In the order of the bundle: files, names, perturbations, rows, and what follows from them.
    """

    items: list[Item] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether nothing that was looked at differs, and at least one row was replayed."""
        return not self.differences and any(item.outcome == Outcome.REPLAYED for item in self.items)

    @property
    def differences(self) -> list[Item]:
        """What does not hold."""
        return [item for item in self.items if item.agrees is False]

    def count(self, outcome: Outcome) -> int:
        """Return how many items have an outcome."""
        return sum(item.outcome == outcome for item in self.items)

    @property
    def summary(self) -> str:
        """One sentence for people."""
        counts = ", ".join(f"{self.count(outcome)} {outcome}" for outcome in Outcome)
        if self.differences:
            return f"{len(self.differences)} of {len(self.items)} statements DIFFER ({counts})."
        if not self.agrees:
            return f"Nothing differs, but nothing was replayed ({counts}): no row of the report is confirmed."
        untied = any(item.what == WEIGHTS_TIE and item.agrees is None for item in self.items)
        but = f", but for {WEIGHTS_FILE}, which could not be compared" if untied else ""
        signers = [item.found for item in self.items if item.outcome == Outcome.SIGNED]
        if signers:
            signed = f"this is who signed them: {signers[0]}"
            return f"Nothing differs ({counts}). The parts belong together{but}, and {signed}."
        return f"Nothing differs ({counts}). This shows that the parts belong together{but}, not who made them."
