"""What a report claims, held against its own settings: rows of attacks, the curve, and sanity checks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from genaf_sdk.attacks.base import Attack, EncoderAttack
from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.attacks.sample_wise import FeatureAttack, SampleWise
from genaf_sdk.errors import AttackError, ConfigError
from genaf_sdk.evaluation.checks import always_checked, attacks_beat_noise, larger_budgets
from genaf_sdk.evaluation.chosen import chosen_attacks
from genaf_sdk.evaluation.curve import drawn_attacks
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.export.outcome import Item, not_replayed, recomputed
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.scores import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from genaf_sdk.report.robustness import RobustnessReport
    from genaf_sdk.report.scores import Check, Score

Key = tuple[str, str, float, str]
"""Column, attack, budget and kind of threat."""
CHECKS = "sanity checks"
"""What a failure calls them where they could not be had."""


def check_claims(report: RobustnessReport, *, same_version: bool) -> list[Item]:
    """Hold rows, curve and checks against one another, and against what the settings ask for.

    A row that was left out, or the one check that failed, is missed by nobody who reads the rest.

    Args:
        report: What is verified.
        same_version: Whether this version wrote it, whose checks have the names of today.
    """
    wrong = [problem for row in report.scores for problem in _contradictions(row)]
    items = [recomputed("rows, by what their attacks do", not wrong, "", "; ".join(dict.fromkeys(wrong)))]
    config, chosen, unknown = _settings(report)
    if same_version:
        items += _checks(report, config, chosen, _decided(report))
    if config is None:
        return [*items, not_replayed("attacks of the settings", "", unknown)]
    rows = [*_missing_rows(report, chosen), *_missing_names(report, config)]
    rows += _other_counts(report, config) if same_version else []
    points = list(_curve(report, config, chosen))
    return [
        *items,
        recomputed("attacks of the settings", not rows, f"{len(config.attacks)} attacks", "; ".join(rows)),
        recomputed("points of the settings", not points, f"{len(config.curve)} budgets", "; ".join(points)),
    ]


def _settings(report: RobustnessReport) -> tuple[EvaluationConfig | None, list[Attack], str]:
    """Return how a report says that the model was evaluated, the attacks that are known here, or why neither."""
    stated = (report.config or {}).get("evaluation")
    if stated is None:
        return None, [], "the report does not say how it was evaluated"
    try:
        config = EvaluationConfig.from_dict(stated, "config.evaluation.")
        return config, chosen_attacks([text for text in config.attacks if _known(text)], config), ""
    except (AttackError, ConfigError) as error:
        return None, [], error.problem


def columns_of(attack: Attack) -> tuple[Knowledge, ...]:
    """Return what an attacker has who can run it: an evaluation of a hardened model has a row in each column."""
    if isinstance(attack, (EncoderAttack, FeatureAttack)):
        return Knowledge.TRANSFER, Knowledge.ADAPTIVE
    return (Knowledge.WHITE_BOX,)


def _known(text: str) -> Attack | None:
    """Return the attack that ``text`` names; None for one of a package, or with a setting, that is not here."""
    try:
        return load_attack(text)
    except AttackError:
        return None


def _contradictions(row: Score) -> Iterator[str]:
    """Yield where a row says of an attack what cannot be."""
    attack = _known(row.attack) if row.crafting_data != "replayed" else None
    if attack is None:
        return
    what, each = f"{row.model} {row.column} {row.attack}", isinstance(attack, SampleWise)
    columns = (*columns_of(attack), *([Knowledge.NOISE] if attack.name == Knowledge.NOISE else []))
    if row.column not in columns:
        yield f"{what}: it is of the column {' or '.join(columns)}"
    if each != (row.crafting_data == "test"):
        yield f"{what}: it perturbs {'each image by itself' if each else 'all images alike'}"
    if attack.is_patch != row.is_patch:
        yield f"{what}: it makes a {'patch' if attack.is_patch else 'perturbation'}"


def _missing_rows(report: RobustnessReport, chosen: Sequence[Attack]) -> Iterator[str]:
    """Yield which rows of the hardened model the settings ask for, and neither a row nor a failure accounts for."""
    rows = Counter(_key_of(row) for row in report.rows() if row.crafting_data != "replayed")
    failed = Counter(
        (failure.column, failure.name) for failure in report.failures if failure.model in ("", Role.HARDENED)
    )
    for attack in chosen:
        for column in columns_of(attack):
            key = _key(column, attack)
            if rows[key]:
                rows[key] -= 1
            elif failed[key[:2]]:
                failed[key[:2]] -= 1
            else:
                yield f"no row of {column} {attack.name}, {attack.threat.text()}"


def _key(column: str, attack: Attack) -> Key:
    return column, attack.name, _rounded(attack.budget), attack.threat.kind


def _key_of(row: Score) -> Key:
    return row.column, row.attack, _rounded(row.budget), row.threat


def _rounded(budget: float) -> float:
    return round(budget, 9)


def _missing_names(report: RobustnessReport, config: EvaluationConfig) -> list[str]:
    """Return which attacks that cannot be read here have no row at all."""
    told = {row.attack for row in report.rows()} | {failure.name for failure in report.failures}
    names = dict.fromkeys(text.partition(":")[0] for text in config.attacks if _known(text) is None)
    return [f"no row of {name}" for name in names if name not in told]


def _other_counts(report: RobustnessReport, config: EvaluationConfig) -> Iterator[str]:
    """Yield which rows and points are of more or fewer images than the settings ask for."""
    every = min(config.test_samples or report.data.sizes.test, report.data.sizes.test)
    few = min(config.sample_wise_samples, every)
    for row in report.rows():
        wanted = (min(config.patch_samples, few) if row.is_patch else few) if row.crafting_data == "test" else every
        if row.n != wanted:
            yield f"{row.column} {row.attack}: n is {row.n} instead of {wanted}"
    for point in report.curve:
        wanted = few if point.column == Knowledge.WHITE_BOX else every
        if point.n != wanted:
            yield f"curve: {point.column} {point.attack}: n is {point.n} instead of {wanted}"


def _curve(report: RobustnessReport, config: EvaluationConfig, chosen: Sequence[Attack]) -> Iterator[str]:
    """Yield which points are missing, and which are not those of the rows that they are taken from."""
    failed = {failure.name.removeprefix("curve ") for failure in report.failures}
    own = [point for point in report.curve if point.model == Role.HARDENED]
    for attack in filter(None, drawn_attacks(chosen)):
        for drawn in (attack.with_budget(budget) for budget in config.curve):
            for column in columns_of(drawn):
                what, place = f"{column} {drawn.name} at {drawn.threat.text()}", _key(column, drawn)
                points = {(p.correct, p.n) for p in own if (p.column, p.attack, _rounded(p.budget)) == place[:3]}
                same = [row for row in report.rows(column) if row.crafting_data in ("train", "test")]
                rows = {(row.correct, row.n) for row in same if _key_of(row) == place}
                if not points and drawn.name not in failed:
                    yield f"no point of {what}"
                elif drawn in chosen and rows and not points <= rows:
                    yield f"{what} is not what the table says"


def _decided(report: RobustnessReport) -> dict[str, Check]:
    """Decide those checks again that follow from counts."""
    curve = [point for point in report.curve if point.model == Role.HARDENED]
    found = larger_budgets(curve), attacks_beat_noise(report.rows(), curve)
    return {check.name: check for check in found if check is not None}


def _checks(
    report: RobustnessReport, config: EvaluationConfig | None, chosen: Sequence[Attack], decided: dict[str, Check]
) -> list[Item]:
    """Compare the checks that were decided again, and miss those that every such evaluation has."""
    stated = {check.name: check for check in report.checks}
    items = [
        recomputed(f"check: {name}", found == stated[name], stated[name].figures, found.figures)
        for name, found in decided.items()
        if name in stated
    ]
    wanted = config is not None and config.checks and CHECKS not in {failure.name for failure in report.failures}
    if stated or wanted:
        names = [*decided, *always_checked(patches=any(attack.is_patch for attack in chosen))]
        left_out = [name for name in names if name not in stated]
        items.append(recomputed("which checks there are", not left_out, f"{len(stated)}", "; ".join(left_out)))
    return items
