"""The report in short, as Markdown: for a model card, a pull request or a letter."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.tables import models_of, summary_rows
from genaf_sdk.report.verdict import budget_text, check_text, limits, verdict

if TYPE_CHECKING:
    from genaf_sdk.report.data import Report
    from genaf_sdk.report.scores import Score


def markdown_summary(report: Report, *, level: int = 2) -> str:
    """Return verdict, lowest accuracy of every column, limits and failed checks.

    Args:
        report: What was measured.
        level: Of the heading, 1 to 6.

    Returns:
        GitHub-flavored Markdown that ends with a line break. Every string of the report is escaped.
    """
    models = models_of(report)
    lines = [f"{'#' * level} Robustness", "", escaped(verdict(report)), ""]
    lines.append(f"| attacker | {' | '.join(word.lower() for word in models.values())} |")
    lines.append(f"| --- |{' ---: |' * len(models)}")
    for column, scores in summary_rows(report):
        lines.append(f"| {column} | {' | '.join(_cell(score) for score in scores.values())} |")
    if len(models) > 1:
        lines += ["", "Before: the same encoder after standard fine-tuning. After: this model."]
    failed = [check for check in report.checks if not check.passed]
    if failed:
        lines += ["", "Sanity checks that failed:", "", *(f"- {escaped(check_text(check))}" for check in failed)]
    lines += ["", "Limits:", "", *(f"- {escaped(sentence)}" for sentence in limits(report))]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return ``text`` harmless in Markdown: no markup, no links, no table breaks, one line."""
    one_line = " ".join(html.escape(text, quote=False).split())
    return re.sub(r"([\\`*_{}\[\]#+!|~])", r"\\\1", one_line).replace("://", ":&#47;/").replace("www.", "www&#46;")


def _cell(score: Score | None) -> str:
    if score is None:
        return "not measured"
    low, high = score.interval
    attack = (
        f" {escaped(score.attack)}, {budget_text(score)},"
        if score.column not in (Knowledge.CLEAN, Knowledge.NOISE)
        else ""
    )
    return f"{score.accuracy:.1%} ({low:.1%} to {high:.1%},{attack} n = {score.n})"
