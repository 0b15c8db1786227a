"""The report on a terminal: verdict, table, checks. Strings of the report are text there, never markup or control."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.scores import Role
from genaf_sdk.report.tables import attack_rows
from genaf_sdk.report.verdict import limits, verdict
from genaf_sdk.terminal import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from genaf_sdk.report.data import Report
    from genaf_sdk.report.scores import Check, Score

TOLD = ("surrogate", "replayed")
"""Images that a row was crafted on are told where they are not the usual ones."""


def terminal_report(report: Report) -> list[RenderableType]:
    """Return what is printed, in order: verdict, every row, corruptions, checks, failures, limits."""
    return [
        Text(printable(verdict(report)), style="bold"),
        table(report),
        *corruption_table(report),
        *(_check(check) for check in report.checks),
        *(Text(printable(failure.text), style="bold red") for failure in report.failures),
        *(Text(f"- {printable(sentence)}", style="dim") for sentence in limits(report)),
    ]


def table(report: Report) -> Table:
    """Return the rows as a table: the baseline beside the hardened model."""
    made = Table(title="Test accuracy, 95 % interval, n", title_justify="left")
    models = [name for name in (Role.BASELINE, Role.HARDENED) if report.rows(model=name)]
    for heading in ("attacker", "attack", "budget"):
        made.add_column(heading)
    for name in models:
        made.add_column(str(name), justify="right")
    clean = [report.strongest_attack(Knowledge.CLEAN, name) for name in models]
    if any(clean):
        made.add_row("clean", "", "", *map(_cell, clean))
    for column, rows in attack_rows(report).items():
        for row in rows:
            label = row.name + (f" ({row.crafting_data})" if row.crafting_data in TOLD else "")
            cells = [_cell(row.scores.get(name)) for name in models]
            made.add_row(str(column), Text(printable(label)), row.budget, *cells)
    return made


def corruption_table(report: Report) -> list[Table]:
    """Return accuracies by kind of corruption, the mean last, as one table; none where nothing was tried."""
    section = report.corruptions
    if section is None or not section.rows:
        return []
    made = Table(title=f"Accuracy under common corruptions, n = {section.rows[0].n}", title_justify="left")
    models = [name for name in (Role.BASELINE, Role.HARDENED) if section.of(name)]
    made.add_column("corruption")
    for name in models:
        made.add_column(str(name), justify="right")
    for kind, rows in section.by_kind().items():
        cells = [f"{rows[name].accuracy:.1%}" if name in rows else "" for name in models]
        made.add_row(Text(printable(kind)), *cells)
    made.add_row("mean", *(f"{section.mean(name):.1%}" for name in models))
    return [made]


def _check(check: Check) -> Text:
    mark = ("passed", "green") if check.passed else ("WARNING", "bold red")
    return Text.assemble(mark, " ", printable(f"{check.name} ({check.figures})"))


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    low, high = score.interval
    return f"{score.accuracy:.1%} [{low:.1%}, {high:.1%}] {score.n}"
