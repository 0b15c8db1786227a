"""What a report amounts to, in plain sentences: the headline, warnings before it, and what was not looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.inputs.threat import THREATS, Patch
from genaf_sdk.report.certificate import certificate_limits, proven
from genaf_sdk.report.corruptions import corruption_text
from genaf_sdk.report.data import missing_columns
from genaf_sdk.report.scores import Role, lowest_accuracy

if TYPE_CHECKING:
    from genaf_sdk.report.data import Report
    from genaf_sdk.report.scores import Check, Score

PARAMETER_FREE, BLACK_BOX = ("apgd-ce", "apgd-t", "autoattack"), ("square", "autoattack")


def verdict(report: Report) -> str:
    """Return clean accuracy and the lowest one in one sentence, then the lowest of every column.

    A failed check is said before it, and attacks that could not be run after it; last what is proven.
    """
    parts = (
        _warning(report), headline(report), _by_attacker(report), corruption_text(report.corruptions),
        _failed(report), proven(report.certificate),
    )  # fmt: skip
    return " ".join(filter(None, parts))


def headline(report: Report) -> str:
    """Return the one sentence that every form of the report begins with."""
    clean = report.strongest_attack(Knowledge.CLEAN)
    attacked = [row for row in report.rows() if row.column not in (Knowledge.CLEAN, Knowledge.NOISE)]
    worst = lowest_accuracy(attacked)
    if clean is None and worst is None:
        return "Nothing was measured."
    first = clean or worst
    parts = [] if clean is None else [f"{clean.accuracy:.1%} clean"]
    if worst is None:
        parts.append("no attack was run")
    else:
        count = f"; n = {worst.n}" if clean is not None and worst.n != clean.n else ""
        parts.append(
            f"{worst.accuracy:.1%} under the strongest attack "
            f"({worst.attack}, {budget_text(worst)}, {worst.column}{count})"
        )
    return f"Accuracy (n = {first.n if first else 0}): {'; '.join(parts)}."


def limits(report: Report) -> list[str]:
    """Return what the accuracies do not cover, one sentence each."""
    own = report.rows()
    return [
        *_price(report),
        *_reference(report),
        *_sample_wise(own),
        *_placed_patches(own),
        *_not_converged(own),
        *_missing(report),
        *(f"Not measured: {failure.text}" for failure in report.failures if failure.part == "attack"),
        _budgets(own),
        f"Other changes of the image ({_other_changes(report)}), poisoned training data and attacks that were not run "
        "are not covered: a stronger attack can exist.",
        *certificate_limits(report.certificate),
        f"The accuracies belong to the test images of {report.data.name!r} and to one training run with seed "
        f"{report.seed}; the intervals cover the choice of test images, not that of the seed.",
        *([] if report.checks else ["No sanity check was run: masked gradients would go unnoticed."]),
    ]


def budget_text(score: Score) -> str:
    """Return a row's budget: gray levels of 255, or the share of the area that a patch covers; empty for clean."""
    if not score.attack or not score.budget:
        return ""
    return THREATS[score.threat](score.budget).text()


def check_text(check: Check) -> str:
    """Return a sanity check in one line, with what decided it."""
    return f"{'passed' if check.passed else 'WARNING'}: {check.name} ({check.figures})"


def _warning(report: Report) -> str:
    failed = [check.name for check in report.checks if not check.passed]
    if not failed:
        return ""
    return (
        f"WARNING: {len(failed)} of {len(report.checks)} sanity checks failed ({'; '.join(failed)}), "
        "so the accuracies may overstate robustness."
    )


def _placed_patches(rows: list[Score]) -> list[str]:
    """Say so where no patch was run that knows the model and chooses its place: it finds far more than the others."""
    if any(row.column == Knowledge.WHITE_BOX and row.threat == Patch.kind for row in rows):
        return []
    return [
        "No patch was crafted against the whole model at a place of its own choice, which fools it far more often than "
        "one at a fixed place: `genaf evaluate MODEL --attacks patch patch-uap encoder-patch` measures it."
    ]


def _not_converged(rows: list[Score]) -> list[str]:
    """Name the attacks that were still gaining when they ended."""
    names = [f"{row.attack} ({row.column})" for row in rows if row.converged is False]
    return [f"Still gaining when their steps ended, so more steps may find more: {', '.join(names)}."] if names else []


def _other_changes(report: Report) -> str:
    untried = "blur, weather, " if report.corruptions is None else ""
    return f"rotation, {untried}objects larger than the patch"


def _by_attacker(report: Report) -> str:
    rows = [row for column in Knowledge if (row := report.strongest_attack(column)) is not None]
    clean = report.strongest_attack(Knowledge.CLEAN)
    parts = []
    for row in rows:
        if row.column == Knowledge.CLEAN:
            continue
        details = [row.attack, budget_text(row)] if row.column != Knowledge.NOISE else []
        details += [f"n = {row.n}"] if clean is not None and row.n != clean.n else []
        parts.append(f"{row.column} {row.accuracy:.1%}" + (f" ({', '.join(details)})" if details else ""))
    return f"Lowest accuracy by attacker: {', '.join(parts)}." if parts else ""


def _failed(report: Report) -> str:
    if not report.failures:
        return ""
    return f"NOT DONE: {'; '.join(failure.text for failure in report.failures)}"


def _price(report: Report) -> list[str]:
    before, after = report.strongest_attack(Knowledge.CLEAN, Role.BASELINE), report.strongest_attack(Knowledge.CLEAN)
    if before is None or after is None or after.accuracy >= before.accuracy:
        return []
    return [
        f"Hardening costs accuracy on clean images: {after.accuracy:.1%} instead of {before.accuracy:.1%} without it."
    ]


def _reference(report: Report) -> list[str]:
    settings = (report.config or {}).get("baseline")
    rate = settings.get("encoder_learning_rate") if isinstance(settings, dict) else None
    if not isinstance(rate, (int, float)) or len({score.model for score in report.scores}) == 1:
        return []
    return [
        f"The model before hardening was fine-tuned with an encoder learning rate of {rate:g}. A larger one is a weak "
        "defense itself: `genaf compare --methods default fine-tuning` is the stricter comparison."
    ]


def _sample_wise(own: list[Score]) -> list[str]:
    rows = [score for score in own if score.crafting_data == "test" and score.column == Knowledge.WHITE_BOX]
    strongest = lowest_accuracy(rows)
    if strongest is None:
        return ["Attacks that perturb every image by itself were not run: nothing is known of them."]
    text = [
        f"An attacker who knows the whole model and perturbs every image by itself ({strongest.attack}, "
        f"{budget_text(strongest)}) changes {strongest.fooling_rate:.1%} of the predictions and leaves "
        f"{strongest.accuracy:.1%} right."
    ]
    if not any(score.attack in (*PARAMETER_FREE, *BLACK_BOX) for score in rows):
        text.append(
            "Neither a parameter-free attack (APGD) nor a black-box one (Square) was run; they often find more "
            "than PGD."
        )
    return text


def _missing(report: Report) -> list[str]:
    missing = missing_columns(report)
    return [f"Not measured: the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}."] if missing else []


def _budgets(own: list[Score]) -> str:
    budgets = dict.fromkeys(budget_text(score) for score in own if score.attack)
    if not budgets:
        return "No attack was run, at any budget."
    return f"Larger budgets than those measured ({', '.join(budgets)}) are not covered."
