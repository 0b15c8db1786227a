"""What a universal perturbation was crafted with, and the name that follows from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from genaf_sdk.errors import AttackError

LONGEST = 200  # characters of a file's name, which file systems limit to 255 bytes with its ending


class Knowledge(StrEnum):
    """What the attacker knows; the spelling in reports."""

    CLEAN = "clean"
    """There is no attacker."""
    NOISE = "noise"
    """Nothing."""
    TRANSFER = "transfer"
    """The published encoder."""
    ADAPTIVE = "adaptive"
    """The encoder of the attacked model."""
    WHITE_BOX = "white-box"
    """The whole model."""


@dataclass(frozen=True)
class PerturbationKey:
    """Identifies a perturbation within an evaluation: compared by its fields, never parsed.

    ``str(key)`` is the name of its file, without the ending.

    Args:
        knowledge: Of the attacker.
        attack: Name of the attack.
        model: Whose encoder was attacked; empty for noise and for transferred perturbations.
        images: Which images it was crafted on, where there is more than one source.
        run: Counts the runs of one attack with different settings, from 1.
        label: A name of its own, which replaces all of the above in ``str(key)``: of a replayed perturbation, or of an
            older file, which does not state the rest.

    Raises:
        AttackError: A field is of another type, or the name cannot be that of a file.
    """

    knowledge: Knowledge = Knowledge.TRANSFER
    attack: str = ""
    model: str = ""
    images: str = ""
    run: int = 1
    label: str = ""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "knowledge", Knowledge(self.knowledge))
        except ValueError as error:
            raise AttackError(
                f"The attacker's knowledge is {self.knowledge!r}.", expected=f"one of {', '.join(Knowledge)}"
            ) from error
        texts = (self.attack, self.model, self.images, self.label)
        if not all(isinstance(text, str) for text in texts) or type(self.run) is not int or self.run < 1:
            raise AttackError(
                f"The key of a perturbation is {dataclasses.asdict(self)}.", expected="texts, and a run from 1"
            )
        name = str(self)
        if not name.isprintable() or any(mark in "".join(texts) for mark in "/\\") or len(name) > LONGEST:
            raise AttackError(
                f"A perturbation is named {name[:LONGEST]!r}.",
                expected=f"the name of a file: at most {LONGEST} printable characters, without / and \\",
            )

    def __str__(self) -> str:
        """Return the name of its file, without the ending: ``adaptive-uapgd-hardened``, ``noise``."""
        parts = *dict.fromkeys((str(self.knowledge), self.attack)), self.model, self.images
        run = str(self.run) if self.run > 1 else ""
        return self.label or "-".join(filter(None, (*parts, run)))

    def to_dict(self) -> dict[str, str | int]:
        """Return the fields that are not empty, which ``key_from`` reads."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


def key_from(content: Any) -> PerturbationKey:
    """Read what ``PerturbationKey.to_dict`` gave.

    Raises:
        AttackError: It is something else.
    """
    known = {field.name for field in dataclasses.fields(PerturbationKey)}
    if not isinstance(content, dict) or "knowledge" not in content or not content.keys() <= known:
        raise AttackError(f"The key of a perturbation is {content!r}.", expected=f"an object of {', '.join(known)}")
    return PerturbationKey(**content)
