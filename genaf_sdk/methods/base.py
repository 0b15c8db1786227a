"""What a method of fine-tuning is: settings, views of a batch, a loss for each row, and the stages it trains in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from genaf_sdk.engine.schedule import Schedule
from genaf_sdk.errors import ConfigError
from genaf_sdk.methods.against import Against
from genaf_sdk.registry import Registry
from genaf_sdk.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from genaf_sdk.engine.adversary import Adversary
    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.engine.stage import Losses, Outputs, Stage, Views
    from genaf_sdk.methods.lab import Lab


@dataclass(frozen=True)
class Strength:
    """A named choice of a method's settings: a preset.

    Args:
        summary: The method so set, in one sentence.
        protects: What its users are protected against.
        leaves_open: What they are not.
        changes: Settings that differ from the method's defaults, nested as ``Settings.with_`` takes them.
        baseline: The same for the baseline that it is compared with in a report.
    """

    summary: str
    protects: str
    leaves_open: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    baseline: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method(Settings, ABC):
    """A method of fine-tuning: one class, one file, one line in the registry.

    The fields of a subclass are its settings, ``losses`` is its equation. ``views`` and ``losses`` see the rows of this
    process alone; the engine takes the mean over the global batch.
    """

    name: ClassVar[str]
    """Spelling in configurations, on the command line and in reports."""
    source: ClassVar[str]
    """Where it was published."""
    strengths: ClassVar[Mapping[str, Strength]]
    """Presets, by name."""
    schedule: Schedule = Schedule()
    against: Against | None = None
    """What it trains against."""

    @property
    def compares_rows(self) -> bool:
        """Whether the loss of a row depends on other rows of the batch."""
        return False

    def adversary(self, lab: Lab, stage: str) -> Adversary | None:
        """Return what perturbs the batches of a stage, or None.

        Args:
            lab: The model, the data and the run.
            stage: Its name, from which the adversary's random numbers follow.
        """
        return None if self.against is None else self.against.adversary(lab.key(stage, "adversary"), lab.run.processes)

    @abstractmethod
    def views(self, model: nn.Module, batch: Batch, adversary: Adversary | None) -> Views:
        """Return the inputs that cross the network, one tensor (n, ...) a view; accuracy is that of the last view.

        Args:
            model: The classifier, for adversaries: inputs to logits.
            batch: This process's rows of a global batch, augmented.
            adversary: What ``adversary`` returned.
        """

    @abstractmethod
    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        """Return the loss of every row; the engine averages them over the global batch.

        Args:
            outputs: Features (n, D) and logits (n, K) of every view, in the order of ``views``.
            batch: The rows that they belong to, with their labels.
        """

    @property
    def later_passes_may_grow(self) -> bool:
        """Whether ``later_passes`` are the fewest that there may be."""
        return False

    def later_passes(self, lab: Lab) -> float:
        """Return about how many images cross the network, forth and back, after stage 1; for estimates of time."""
        del lab
        return 0.0

    def stages(self, lab: Lab) -> Iterator[Stage]:
        """Yield the stages one after the other; each is trained before the next is asked for."""
        yield lab.stage("stage 1", self)

    @classmethod
    def kind_of(cls, content: dict[str, Any], path: str) -> type[Self]:
        """Return the class that ``content["name"]`` names.

        Raises:
            ConfigError: There is no name, no such method, or one of another kind.
        """
        if "name" not in content:
            if hasattr(cls, "name"):
                return cls
            raise ConfigError(f"{path}name is missing.", expected=f"one of {', '.join(METHODS.items())}")
        kind = METHODS[content["name"]]
        if not issubclass(kind, cls):
            raise ConfigError(f"{path}name is {content['name']!r}.", expected=f"a {cls.__name__}")
        return kind

    @classmethod
    def from_value(cls, value: Any, path: str) -> Self:
        """Return a method from ``value``: itself, a JSON object or the name of a preset; errors call it ``path``.

        Raises:
            ConfigError: It is none of these.
        """
        if isinstance(value, str):
            kind, strength = presets()[value] if value in presets() else (METHODS[value], None)
            made = kind() if strength is None else kind().with_(**strength.changes)
            if isinstance(made, cls):
                return made
        return super().from_value(value, path)


METHODS: Registry[type[Method]] = Registry("method", "genaf_sdk.methods", ConfigError)


def presets() -> dict[str, tuple[type[Method], Strength]]:
    """Return every preset by name with its method: Gen-AF's own first, then those that it is compared with."""
    methods = sorted(METHODS.items().values(), key=lambda method: (method.name != "gen-af", method.name))
    return {name: (method, strength) for method in methods for name, strength in method.strengths.items()}
