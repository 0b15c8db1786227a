"""Settings of what a method trains against."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from genaf_sdk.errors import ConfigError
from genaf_sdk.registry import Registry
from genaf_sdk.settings import Settings

if TYPE_CHECKING:
    from genaf_sdk.engine.adversary import Adversary
    from genaf_sdk.engine.processes import Processes


FIRST = 0.01
"""Share of the steps whose budget the first ones have."""


def budget_at(done: float, ramp: float) -> float:
    """Return what the budgets of a step are multiplied by, if they rise linearly.

    Full budgets from the start lose what the encoder knew (Ngnawé et al., Epsilon-Scheduling, arXiv 2509.23325).

    Args:
        done: Share of the steps that are done.
        ramp: Share of the steps in which budgets rise; 0 has full ones from the start.
    """
    return min(1.0, max(done, FIRST) / ramp) if ramp else 1.0


@dataclass(frozen=True)
class Against(Settings, ABC):
    """Budgets and steps of an adversary."""

    name: ClassVar[str]

    @abstractmethod
    def adversary(self, key: int, processes: Processes) -> Adversary:
        """Return the adversary that these are the settings of.

        Args:
            key: Of the random numbers of what outlives a step; those of a step belong to its batch.
            processes: Who has the other rows of a batch.
        """

    @classmethod
    def kind_of(cls, content: dict[str, Any], path: str) -> type[Self]:
        """Return the class that ``content["name"]`` names; ``path`` stands before it in errors.

        Raises:
            ConfigError: There is no such adversary.
        """
        if "name" not in content and hasattr(cls, "name"):
            return cls
        kind = ADVERSARIES[str(content.get("name"))]
        if not issubclass(kind, cls):
            raise ConfigError(f"{path}name is {content['name']!r}.", expected=f"a {cls.__name__}")
        return kind


ADVERSARIES: Registry[type[Against]] = Registry("adversary", "genaf_sdk.adversaries", ConfigError)
