"""What all commands share: the console, results for people or machines, errors, exit codes."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from genaf_sdk.errors import GenafError, RunStoppedError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from genaf_sdk.report.robustness import RobustnessReport

DONE, CHECK_FAILED, USAGE_ERROR, UNEXPECTED, INTERRUPTED, STOPPED = 0, 1, 2, 3, 130, 143


def if_given(metavar: str) -> Any:
    """Mark an option whose help says what happens without it; None is no value that anybody would type."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: its fields are its options, calling it runs it and gives the exit code."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the result as JSON on standard output, and nothing else there."""

    def answer(self, content: Any, *shown: RenderableType) -> None:
        """Print ``content`` for a machine if --json was given, otherwise what is ``shown`` to people."""
        if self.json:
            print_json(content)
            return
        for part in shown:
            console().print(part)

    def answer_report(self, report: RobustnessReport) -> None:
        """Print a report: as in report.json, or its verdict, table, sanity checks and limits."""
        from genaf_sdk.report.terminal import terminal_report

        self.answer(report.to_dict(), *terminal_report(report))


def console(*, stderr: bool = False) -> Console:
    """Return a console that takes strings for text; where there is no terminal, 120 columns wide."""
    from genaf_sdk.terminal import PlainConsole

    made = PlainConsole(stderr=stderr)
    return made if made.is_terminal else PlainConsole(stderr=stderr, width=120)


def print_whole(text: str) -> None:
    """Print text whose lines are to be copied or read by a program: never wrapped, never cut."""
    from genaf_sdk.terminal import printable

    console().out(printable(text), highlight=False)


def is_first_process() -> bool:
    """Return whether this process speaks: of several that a launcher started, the first."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def print_json(content: Any) -> None:
    """Print one JSON value on standard output, as it is: never wrapped, never colored."""
    from genaf_sdk.terminal import json_text

    text = json_text(content)
    if not (sys.stdout.encoding or "").lower().startswith("utf"):  # a terminal that would show question marks
        text = "".join(part if part.isascii() else json.dumps(part)[1:-1] for part in text)
    console().out(text, highlight=False)


def show_error(error: Exception, *, as_json: bool, debug: bool) -> int:
    """Say what went wrong in one or two lines, with --debug after the traceback, and return the exit code."""
    known = isinstance(error, GenafError)
    problem = str(error) if known else f"{type(error).__name__}: {' '.join(str(error).split())}"
    hint = (
        ""
        if known or debug
        else " To do: run `genaf --debug ...` to see where; this may be a bug in genaf-sdk; please report it."
    )
    if debug:
        console(stderr=True).print(traceback.format_exc(), highlight=False, soft_wrap=True)
    if as_json:
        parts = {name: getattr(error, name, "") for name in ("problem", "expected", "remedy")}
        print_json({"error": {"type": type(error).__name__, **parts, "problem": parts["problem"] or problem}})
    console(stderr=True).print(f"genaf: {problem}{hint}", style="red", highlight=False)
    if isinstance(error, RunStoppedError):
        return STOPPED
    return USAGE_ERROR if known else UNEXPECTED
