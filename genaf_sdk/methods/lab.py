"""What a method makes its stages from: the model, the data, the run; and what it found on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from genaf_sdk.data import DataSplits
from genaf_sdk.engine.cost import Spent
from genaf_sdk.engine.randomness import random_key
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.stage import Stage
from genaf_sdk.models.classifier import Classifier
from genaf_sdk.models.tuning import freeze_statistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.methods.base import Method


class Clock:
    """Seconds of parts of a run that follow one another, by name: on the wall, and of processors."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Begin the next part; what passed since the last stop belongs to none."""
        self._started = Spent.until_now()

    def stop(self, part: str, earlier: Spent = Spent()) -> None:  # noqa: B008  # it never changes
        """Add the time since the last stop to ``part``, and what it took ``earlier``, before a run went on."""
        now = Spent.until_now()
        spent = earlier + now - self._started
        self.seconds[part] = round(self.seconds.get(part, 0.0) + spent.seconds, 3)
        self.cpu_seconds[part] = round(self.cpu_seconds.get(part, 0.0) + spent.cpu_seconds, 3)
        self._started = now


@dataclass
class Lab:
    """What a method's stages are made from.

    Args:
        run: Device, seed, precision, checkpoints, history.
        model: The classifier that is trained, in place.
        data: Its images.
        frozen: Names of parameters that the user froze; no stage trains them.
        findings: What the method wants to be known afterwards, by name.
        clock: Durations, for the report.
    """

    run: Run
    model: Classifier
    data: DataSplits
    frozen: frozenset[str] = frozenset()
    findings: dict[str, Any] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)

    def key(self, *purpose: str | int) -> int:
        """Return the key of the random numbers of a purpose."""
        return random_key(self.run.seed, *purpose)

    def stage(
        self,
        name: str,
        method: Method,
        *,
        trains: Callable[[str], bool] | None = None,
        train_mode: Callable[[nn.Module], object] = nn.Module.train,
    ) -> Stage:
        """Return a stage that trains by the views and losses of ``method``.

        Args:
            name: Of the stage; random numbers depend on it.
            method: Gives views, losses, schedule and adversary.
            trains: Whether the parameter of that name is trained; by default all that the user has not frozen are.
            train_mode: Puts the modules into the mode that they train in; statistics of frozen parts stay all the same.
        """
        adversary = method.adversary(self, name)

        def mode(model: nn.Module) -> None:
            train_mode(model)
            freeze_statistics(model, self.frozen)

        return Stage(
            name=name,
            schedule=method.schedule,
            views=partial(method.views, adversary=adversary),
            losses=method.losses,
            compares_rows=method.compares_rows,
            memory=adversary,
            trains=lambda parameter: parameter not in self.frozen and (trains is None or trains(parameter)),
            train_mode=mode,
        )
