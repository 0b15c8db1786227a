"""One display of progress: a bar on a terminal; lines, a few a minute, in logs and notebooks; or nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from genaf_sdk.terminal import PlainConsole, printable

if TYPE_CHECKING:
    from types import TracebackType

LINE_SECONDS = 60.0
"""A task that shows no other sign of life gets a line this often."""
PAUSE_SECONDS, BURST = 2.0, 5
"""Of parts that follow each other faster than this, such as small layers, only the first few get a line."""


class Display(Protocol):
    """What training and evaluation tell; a part of ``rich.progress.Progress``."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show for the last time."""

    def add_task(self, description: str, *, total: float | None, completed: int = 0, figures: str = "") -> TaskID:
        """Begin a task of ``total`` steps (None: unknown), of which ``completed`` are done."""

    def update(
        self,
        task_id: TaskID,
        *,
        completed: float | None = None,
        description: str | None = None,
        figures: str = "",
    ) -> None:
        """Tell where a task stands: steps, a name for the part it is in, figures as text."""

    def remove_task(self, task_id: TaskID) -> None:
        """End a task."""


def make_display(wanted: bool | None = None, *, speaks: bool = True) -> Display:
    """Return a display that suits where standard error goes.

    Args:
        wanted: True shows progress everywhere: a bar on a terminal, else lines. None shows it to people who watch: on a
            terminal and in notebooks. False shows nothing.
        speaks: Whether this process does; of several, one.
    """
    console = PlainConsole(stderr=True)
    if not speaks or wanted is False or (wanted is None and not (console.is_terminal or console.is_jupyter)):
        return Progress(console=console, disable=True)
    if console.is_terminal and not console.is_jupyter:
        return Progress(_Description(""), BarColumn(), _Figures(""), TimeRemainingColumn(), console=console)
    plain = PlainConsole(stderr=True, width=160, force_jupyter=False, highlight=False, soft_wrap=True)
    return Lines(plain.print)


class _Description(TextColumn):
    def render(self, task: Task) -> Text:
        return Text(printable(task.description))


class _Figures(TextColumn):
    def render(self, task: Task) -> Text:
        return Text(printable(str(task.fields.get("figures", ""))))  # none yet, where a task begins without


@dataclass
class _Task:
    description: str
    total: float | None
    completed: float = 0.0
    figures: str = ""
    started: float = 0.0
    shown: float = 0.0
    line: str = ""
    entered: float = 0.0
    burst: int = 0


@dataclass
class Lines:
    """A line where a task enters another part (an epoch, an attack), and at least every ``LINE_SECONDS``.

    Args:
        write: Takes one line.
        clock: Seconds.
    """

    write: Callable[[str], object]
    clock: Callable[[], float] = time.monotonic
    tasks: dict[TaskID, _Task] = field(default_factory=dict)
    _turns: threading.RLock = field(default_factory=threading.RLock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in [*self.tasks]:
            self.remove_task(task)

    def add_task(self, description: str, *, total: float | None, completed: int = 0, figures: str = "") -> TaskID:
        """Begin a task; nothing is written yet."""
        now = self.clock()
        with self._turns:
            task_id = TaskID(max(self.tasks, default=-1) + 1)
            self.tasks[task_id] = _Task(description, total, completed, figures, now, now)
        return task_id

    def update(
        self,
        task_id: TaskID,
        *,
        completed: float | None = None,
        description: str | None = None,
        figures: str = "",
    ) -> None:
        """Take in where the task stands, and write a line where it is time for one."""
        task, now = self.tasks[task_id], self.clock()
        if description not in (None, task.description) and task.figures:
            self._show(task, now)  # the last figures of the part that ends here
        enters = task.total is None and figures != task.figures
        task.description, task.figures = description or task.description, figures
        task.completed = task.completed if completed is None else completed
        if enters:
            task.burst = 1 if now - task.entered >= PAUSE_SECONDS else task.burst + 1
            task.entered = now
        if (enters and task.burst <= BURST) or now - task.shown >= LINE_SECONDS:
            self._show(task, now)

    def remove_task(self, task_id: TaskID) -> None:
        """Write the last figures of a task that counts steps."""
        task = self.tasks.pop(task_id)
        if task.total is not None and task.figures:
            self._show(task, self.clock())

    def _show(self, task: _Task, now: float) -> None:
        task.shown = now
        left = ""
        if task.total and 0 < task.completed < task.total:
            seconds = (now - task.started) / task.completed * (task.total - task.completed)
            left = f" ({task.completed / task.total:.0%}, {seconds:.0f} s left)"
        line = f"{task.description} {task.figures}{left}"
        if line != task.line:
            self.write(line)
            task.line = line
