"""Sanity checks on their own: what chance explains passes, what it does not fails."""

from __future__ import annotations

import pytest

from genaf_sdk.evaluation.checks import attacks_beat_noise, larger_areas, larger_budgets
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.scores import CurvePoint, Role, Score


@pytest.mark.parametrize(
    ("correct", "passed"),
    [
        ((447, 449, 448), True),  # two images of 450
        ((300, 270, 200), True),
        ((200, 210, 150), True),
        ((200, 225, 150), False),
        ((200, 210, 222), False),  # in two steps, each of which were chance
        ((447, 450, 448), True),  # three
        ((446, 450, 448), False),  # four: none is wrong any more
        ((430, 400, 449), False),
        ((447, 0, 20), False),
    ],
)
def test_accuracy_may_rise_with_the_budget_as_far_as_chance_allows(correct: tuple[int, ...], passed: bool) -> None:
    budgets = (4 / 255, 10 / 255, 16 / 255)
    curve = [
        CurvePoint("hardened", Knowledge.ADAPTIVE, "uapgd", budget, 450, right)  # type: ignore[arg-type]
        for budget, right in zip(budgets, correct, strict=True)
    ]
    check = larger_budgets(curve[::-1])
    assert check is not None
    assert check.passed is passed, check


@pytest.mark.parametrize(
    ("correct", "passed"),
    [
        ((90, 60, 20, 0), True),
        ((0, 3, 1, 0), True),
        ((90, 94, 20, 0), False),
        ((0, 3, 6, 0), False),
        ((9, 5, 9, 0), False),
    ],
)
def test_accuracy_does_not_rise_with_the_area_of_a_patch(correct: tuple[int, ...], passed: bool) -> None:
    check = larger_areas(dict(zip((0.01, 0.03, 0.1, 0.6), correct, strict=True)), 100)
    assert check.passed is passed
    assert f"10%: {correct[2]:.1f}%" in check.figures


def _row(column: Knowledge, budget: float, correct: int, threat: str = "linf") -> Score:
    return Score(Role.HARDENED, column, "some", budget, 1000, correct, 100, threat=threat)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "passed"),
    [
        (_row(Knowledge.ADAPTIVE, 10 / 255, 940), False),
        (_row(Knowledge.WHITE_BOX, 16 / 255, 940), False),
        (_row(Knowledge.ADAPTIVE, 10 / 255, 810), True),  # chance
        (_row(Knowledge.ADAPTIVE, 2 / 255, 940), None),  # a fifth of what the noise may change
        (_row(Knowledge.WHITE_BOX, 0.05, 940, "patch"), None),
    ],
)
def test_only_what_may_change_as_much_has_to_beat_noise(row: Score, passed: bool | None) -> None:
    check = attacks_beat_noise([_row(Knowledge.NOISE, 10 / 255, 800), row], [])
    assert (None if check is None else check.passed) is passed


def test_points_of_the_curve_have_to_beat_noise() -> None:
    noise, point = _row(Knowledge.NOISE, 10 / 255, 800), ("pgd", 10 / 255, 1000)
    for correct in (700, 900):
        check = attacks_beat_noise([noise], [CurvePoint(Role.HARDENED, Knowledge.WHITE_BOX, *point, correct)])
        assert check is not None
        assert check.passed is (correct == 700)
