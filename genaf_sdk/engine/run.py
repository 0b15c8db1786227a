"""A run of training: what it carries from stage to stage."""

from __future__ import annotations

import copy
import threading
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from genaf_sdk.engine.checkpoints import Checkpoints
from genaf_sdk.engine.cost import Spent
from genaf_sdk.engine.machine import MachineConfig
from genaf_sdk.engine.processes import Processes
from genaf_sdk.engine.termination import Termination
from genaf_sdk.engine.tracking import Metrics
from genaf_sdk.progress import make_display

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class RangeTest:
    """What the ramp at the start of a stage found; see ``range_test``.

    Args:
        rates: Learning rate of the encoder at every step.
        losses: Cross-entropy of the step's clean images, before it.
        chosen: The rate that the stage then uses.
    """

    rates: list[float]
    losses: list[float]
    chosen: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain objects, ready for JSON."""
        return asdict(self)


@dataclass
class Run:
    """What a run carries from stage to stage.

    Args:
        accelerator: Device, precision and processes.
        seed: Of every random choice.
        checkpoints: Where the run goes on from if it has to; by default none are kept.
        show_progress: Whether to show progress; None decides by whether somebody watches. See ``make_display``.
        machine: Micro-batches, batch norm over processes, faults.
        termination: Whether somebody asked the run to end.
        history: One record an epoch: stage, epoch, mean losses, accuracies, seconds.
        metrics: Is told every record.
        range_tests: What decided on the encoder's learning rate, by stage.
        earlier: What a stage, or a result that was kept, took before this process went on with it; empty for a run that
            does not go on.
        seeds_torch: Whether every step seeds torch's own random numbers, which belong to the process; of two trainings
            side by side, one may.
        turns: Whoever changes or reads ``history``, or what the accelerator has prepared, takes one.
    """

    accelerator: Accelerator
    seed: int = 0
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    show_progress: bool | None = None
    machine: MachineConfig = field(default_factory=MachineConfig)
    termination: Termination = field(default_factory=Termination)
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    range_tests: dict[str, RangeTest] = field(default_factory=dict)
    earlier: dict[str, Spent] = field(default_factory=dict)
    seeds_torch: bool = True
    turns: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.processes = Processes.of(self.accelerator)
        self.progress = make_display(self.show_progress, speaks=self.accelerator.is_main_process)

    def beside(self) -> Run:
        """Return the same run for a training in another thread: one history, one display, one end for both."""
        other = copy.copy(self)
        other.seeds_torch = False
        return other

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return what an earlier process of this run computed under ``name``, or compute and keep it (as JSON).

        What the first process has is what all processes get.

        Raises:
            OutputError: It cannot be kept.
        """
        noted = self.checkpoints.noted(name)
        if noted is not None:
            self.earlier[name] = Spent(**noted["spent"])
            return noted["value"]
        started = Spent.until_now()
        value = self.processes.broadcast(compute())
        kept = {"value": value, "spent": asdict(Spent.until_now() - started)}
        self.processes.together(lambda: self.checkpoints.note(name, kept))
        return value

    def announce(self, stage: str) -> Callable[[str], None]:
        """Return a function that shows a line of text under ``stage`` in the progress bar."""
        task = self.progress.add_task(stage, total=None, figures="")

        def show(text: str) -> None:
            self.progress.update(task, figures=text)

        return show
