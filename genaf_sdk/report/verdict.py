"""What a report amounts to, in plain sentences: the worst figures, warnings first, and what was not looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genaf_sdk.attacks.registry import known_attacks

if TYPE_CHECKING:
    from genaf_sdk.report.robustness import RobustnessReport
    from genaf_sdk.report.scores import Check, Column, Score

COLUMNS: dict[Column, str] = {
    "clean": "as they are",
    "noise": "under random noise",
    "transfer": "under the worst transferred attack",
    "adaptive": "under the worst adaptive attack",
    "white-box": "under the worst white-box attack",
}
"""Every column, from the weakest attacker to the strongest, in words."""
STRONG = ("apgd-ce", "apgd-t", "autoattack", "square")


def verdict(report: RobustnessReport) -> str:
    """Return the worst figure of every column in one sentence; a failed check is said before it."""
    failed = [check.name for check in report.checks if not check.passed]
    warning = ""
    if failed:
        warning = (
            f"WARNING: {len(failed)} of {len(report.checks)} sanity checks failed ({'; '.join(failed)}), "
            "so the figures may overstate robustness. "
        )
    rows = [row for row in (report.worst_of(column) for column in COLUMNS) if row is not None]
    if not rows:
        return f"{warning}Nothing was measured."
    counts = {row.n for row in rows}
    parts = []
    for row in rows:
        details = [row.attack, budget_text(row, report)] if row.column not in ("clean", "noise") else []
        details += [f"n = {row.n}"] if len(counts) > 1 else []
        parts.append(f"{row.accuracy:.1%} {COLUMNS[row.column]}" + (f" ({', '.join(details)})" if details else ""))
    images = f"Of {max(counts)} test images" if len(counts) == 1 else "Of the test images"
    return f"{warning}{images} the model classifies right {_listed(parts)}."


def limits(report: RobustnessReport) -> list[str]:
    """Return what the figures do not cover, one sentence each."""
    own = [score for score in report.scores if score.model == "hardened"]
    return [
        *_price(report),
        *_sample_wise(report, own),
        *_missing(own),
        _budgets(report, own),
        "Other changes of the image (rotation, blur, weather, objects larger than the patch), poisoned training data "
        "and attacks that were not run are not covered: a stronger attack can exist.",
        f"The figures belong to the test images of {str(report.data['name'])!r} and to one training run with seed "
        f"{report.seed}; the intervals cover the choice of test images, not that of the seed.",
        *([] if report.checks else ["No sanity check was run: masked gradients would go unnoticed."]),
    ]


def budget_text(score: Score, report: RobustnessReport) -> str:
    """Return a row's budget: grey levels of 255, or the share of the area that a patch covers; empty for clean."""
    if not score.attack:
        return ""
    perturbation = report.perturbations.get(score.perturbation)
    attack = known_attacks().get(score.attack)
    is_patch = perturbation.mask is not None if perturbation is not None else attack is not None and attack.is_patch
    return f"{score.budget:.1%} of the area" if is_patch else f"{score.budget * 255:.3g}/255"


def check_text(check: Check) -> str:
    """Return a sanity check in one line, its figures included."""
    return f"{'passed' if check.passed else 'WARNING'}: {check.name} ({check.figures})"


def _listed(parts: list[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def _price(report: RobustnessReport) -> list[str]:
    before, after = report.worst_of("clean", "undefended"), report.worst_of("clean")
    if before is None or after is None or after.accuracy >= before.accuracy:
        return []
    return [
        f"Hardening costs accuracy on clean images: {after.accuracy:.1%} instead of {before.accuracy:.1%} without it."
    ]


def _sample_wise(report: RobustnessReport, own: list[Score]) -> list[str]:
    rows = [score for score in own if score.crafted_on == "test"]
    if not rows:
        return ["Attacks that perturb every image by itself were not run: nothing is known of them."]
    worst = min(rows, key=lambda score: score.accuracy)
    text = [
        f"An attacker who knows the whole model and perturbs every image by itself ({worst.attack}, "
        f"{budget_text(worst, report)}) changes {worst.success_rate:.1%} of the predictions and leaves "
        f"{worst.accuracy:.1%} right."
    ]
    if not any(score.attack in STRONG for score in rows):
        text.append(
            "No attack without tuned step sizes or without gradients (APGD, Square, AutoAttack) was run; they often "
            "find more than PGD does."
        )
    return text


def _missing(own: list[Score]) -> list[str]:
    present = {score.column for score in own}
    missing = [column for column in COLUMNS if column not in present]
    return [f"Not measured: the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}."] if missing else []


def _budgets(report: RobustnessReport, own: list[Score]) -> str:
    budgets = dict.fromkeys(budget_text(score, report) for score in own if score.attack)
    if not budgets:
        return "No attack was run, at any budget."
    return f"Larger budgets than those measured ({', '.join(budgets)}) are not covered."
