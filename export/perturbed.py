"""Saved perturbations held against what they may do, and against the rows that state what they did."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from genaf_sdk.export.layout import PERTURBATION_FOLDER
from genaf_sdk.export.outcome import Item, recomputed
from genaf_sdk.report.scores import Role

if TYPE_CHECKING:
    from genaf_sdk.inputs.perturbation import Perturbation
    from genaf_sdk.report.robustness import RobustnessReport
    from genaf_sdk.report.scores import Score

UNIVERSAL = ("surrogate", "train", "replayed")
"""Images that one perturbation for all others is crafted on; every attack that does so leaves a file."""
LEAST_USED, LEAST_MEAN = 0.9, 0.25
"""Shares of its budget that a perturbation has to use, at its largest value and on average: attacks end at the edge of
it nearly everywhere, and none of this package uses less than half."""


def check_perturbations(report: RobustnessReport) -> list[Item]:
    """Hold every saved perturbation against its budget, area and shape, and against the rows that refer to it."""
    items = []
    for name, perturbation in report.perturbations.items():
        what = f"{PERTURBATION_FOLDER}/{name}"
        shape = tuple(perturbation.values.shape)
        problems = [f"its shape is {shape}"] if shape != tuple(report.data.image_shape) else []
        problems += _unused(perturbation)
        rows = [row for row in report.scores if row.perturbation == name]
        problems += [problem for row in rows for problem in _contradictions(row, perturbation)]
        if not rows:
            problems.append("no row of the report refers to it")
        elif not _covers(report, perturbation, rows):
            problems.append("no row says what it does to the hardened model")
        used = "; ".join(dict.fromkeys(problems)) or "holds to its threat and uses it"
        items.append(recomputed(what, not problems, perturbation.threat.text(), used))
    for row in report.scores:
        if row.crafting_data in UNIVERSAL and not row.perturbation:
            what = f"{row.model} {row.column} {row.attack}"
            items.append(recomputed(what, False, "one perturbation for all images", "it is not saved"))
    missing = sorted({row.perturbation for row in report.scores if row.perturbation} - set(report.perturbations))
    items += [
        recomputed(f"{PERTURBATION_FOLDER}/{name}", False, "a row refers to it", "it is missing") for name in missing
    ]
    return items


def _covers(report: RobustnessReport, perturbation: Perturbation, rows: list[Score]) -> bool:
    """Return whether a perturbation that is not of another model has its row of the hardened one, or a failure."""
    key = perturbation.key
    if key.label or key.model not in ("", Role.HARDENED):
        return True
    failed = any(
        (failure.column, failure.name) == (key.knowledge, key.attack) and failure.model in ("", Role.HARDENED)
        for failure in report.failures
    )
    return failed or any(row.model == Role.HARDENED for row in rows)


def _unused(perturbation: Perturbation) -> list[str]:
    """Return what of its threat a perturbation leaves unused: one that is weaker than stated flatters the model."""
    if perturbation.mask is None:
        used = perturbation.values.abs() / perturbation.budget
        for what, share, least in (("largest", used.max(), LEAST_USED), ("mean", used.mean(), LEAST_MEAN)):
            if not share >= least:
                size = float(share) * perturbation.budget * 255
                return [f"its {what} value is {size:.3g}/255, {float(share):.0%} of the budget"]
        return []
    pixels, height, width = float(perturbation.mask.sum()), *perturbation.mask.shape[1:]
    if (math.sqrt(pixels) + 1) ** 2 <= perturbation.budget * height * width:
        return [f"it covers {pixels / (height * width):.2%}"]
    return []


def _contradictions(row: Score, perturbation: Perturbation) -> list[str]:
    found = []
    if not math.isclose(row.budget, perturbation.budget, rel_tol=1e-6):
        found.append(f"a row states the budget {row.budget:g}, the file {perturbation.budget:g}")
    if row.threat != perturbation.threat.kind:
        found.append(f"a row says {row.threat}, the file {perturbation.threat.kind}")
    if row.attack != (perturbation.attack or "unnamed"):
        found.append(f"a row says {row.attack}, the file {perturbation.attack}")
    converged = perturbation.details.get("converged")
    if row.converged is not (converged if isinstance(converged, bool) else None):
        found.append(f"a row says converged: {row.converged}, the file {converged}")
    tries = perturbation.details.get("tries")
    if row.tries > 1 and tries != row.tries:
        found.append(f"a row says the strongest of {row.tries} tries, the file {tries}")
    key = perturbation.key
    if not key.label and (row.column != key.knowledge or (key.model and row.model != key.model)):
        found.append(f"a row is of the {row.model} model in the column {row.column}, the file of {key}")
    return found
