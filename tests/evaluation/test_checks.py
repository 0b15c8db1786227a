"""Sanity checks on their own: what chance explains passes, what it does not fails."""

from __future__ import annotations

import pytest

from genaf_sdk.evaluation.checks import larger_areas, larger_budgets
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.scores import CurvePoint


@pytest.mark.parametrize(
    ("correct", "passed"),
    [
        ((447, 449, 448), True),  # two images of 450
        ((300, 270, 200), True),
        ((200, 210, 150), True),
        ((200, 225, 150), False),
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
    [((90, 60, 20, 0), True), ((0, 3, 1, 0), True), ((90, 94, 20, 0), False), ((9, 5, 9, 0), False)],
)
def test_accuracy_does_not_rise_with_the_area_of_a_patch(correct: tuple[int, ...], passed: bool) -> None:
    check = larger_areas(dict(zip((0.01, 0.03, 0.1, 0.6), correct, strict=True)), 100)
    assert check.passed is passed
    assert f"10%: {correct[2]:.1f}%" in check.figures
