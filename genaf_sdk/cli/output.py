"""What all commands share: the console, the report on it, exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from genaf_sdk.robustness.report import RobustnessReport

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130


def console(*, stderr: bool = False) -> Console:
    """Return a console; where there is no terminal, 120 columns wide."""
    from rich.console import Console

    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=120)


def show_report(report: RobustnessReport) -> None:
    """Print the table, the sanity checks and the verdict."""
    terminal = console()
    terminal.print(report.table())
    for check in report.checks:
        mark = "[green]passed[/]" if check.passed else "[bold red]WARNING[/]"
        terminal.print(f"{mark} {check.name} ({check.figures})")
    terminal.print(report.verdict)
