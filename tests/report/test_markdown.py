from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from genaf_sdk.report.markdown import escaped, markdown_summary
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Check, Failure, Score
from genaf_sdk.report.sections import DataDescription, Sizes
from genaf_sdk.report.tables import cost_rows
from genaf_sdk.report.terminal import terminal_report
from genaf_sdk.report.verdict import budget_text
from genaf_sdk.terminal import printable

DATA = DataDescription("mine", Sizes(4, 2, 100), ["a", "b"], (3, 8, 8), "0" * 64)


def rows(model: str, clean: int, adaptive: int, pgd: int) -> list[Score]:
    return [
        Score(model, "clean", "", 0.0, 100, clean, 0),
        Score(model, "adaptive", "uapgd", 10 / 255, 100, adaptive, 5, "train", "adaptive-uapgd"),
        Score(model, "adaptive", "advencoder-pat", 0.03, 100, adaptive - 4, 9, "train", "adaptive-advencoder-pat"),
        Score(model, "white-box", "pgd", 8 / 255, 50, pgd, 45, "test"),
    ]


@pytest.fixture
def report() -> RobustnessReport:
    return RobustnessReport(DATA, rows("hardened", 90, 84, 5) + rows("undefended", 95, 40, 0))


def test_the_short_form_holds_the_worst_of_every_column(report: RobustnessReport) -> None:
    text = markdown_summary(report)
    assert text.startswith(
        "## Robustness\n\nAccuracy (n = 100): 90.0% clean; 10.0% under the strongest attack (pgd, 8/255,"
    )
    assert "| adaptive | 36.0% (27.3% to 45.8%, advencoder-pat, 3.0% of the area, n = 100) | 80.0% (" in text
    assert "| transfer | not measured | not measured |" in text
    assert "| white-box | 0.0% (0.0% to 7.1%, pgd, 8/255, n = 50) | 10.0% (" in text
    assert text.endswith("\n")


def test_the_limits_say_how_weak_a_reference_the_model_before_is(report: RobustnessReport) -> None:
    assert not any("before hardening" in sentence for sentence in report.limits), "no settings, nothing to say"
    report.config = {"baseline": {"encoder_learning_rate": 1e-4}}
    assert any("encoder learning rate of 0.0001. A larger one is a weak" in sentence for sentence in report.limits)
    report.scores = [score for score in report.scores if score.model != "undefended"]
    assert not any("before hardening" in sentence for sentence in report.limits)


def test_the_limits_never_flatter(report: RobustnessReport) -> None:
    limits = " ".join(report.limits)
    assert "90.0% instead of 95.0%" in limits
    assert "(pgd, 8/255) changes 90.0% of the predictions and leaves 10.0% right" in limits
    assert "Neither a parameter-free attack (APGD) nor a black-box one (Square) was run" in limits
    assert "Not measured: the columns noise, transfer." in limits
    assert "No patch was crafted against the whole model" in limits
    assert "(10/255, 3.0% of the area, 8/255)" in limits
    assert "No sanity check was run" in limits

    report.scores = [score for score in report.scores if score.column == "clean"]
    assert "nothing is known of them" in " ".join(report.limits)
    assert "No attack was run, at any budget." in report.limits
    report.scores.append(Score("hardened", "white-box", "apgd-ce", 8 / 255, 50, 5, 45, "test"))
    assert "APGD" not in " ".join(report.limits)


def test_a_failed_check_comes_first(report: RobustnessReport) -> None:
    report.checks = [Check("Every attack beats noise", False, "noise 10%"), Check("Fine", True, "")]
    assert report.verdict.startswith("WARNING: 1 of 2 sanity checks failed (Every attack beats noise)")
    assert "- WARNING: Every attack beats noise (noise 10%)" in markdown_summary(report)


def test_equal_counts_are_said_once(report: RobustnessReport) -> None:
    report.scores = [score for score in report.scores if score.n == 100]
    assert report.verdict.startswith(
        "Accuracy (n = 100): 90.0% clean; 80.0% under the strongest attack (advencoder-pat,"
    )
    assert report.verdict.count("n = 100") == 1
    report.scores = []
    assert report.verdict == "Nothing was measured."


@pytest.mark.parametrize(
    "text", ["[link](https://x)", "<b>x</b>", "a|b", "line\n# heading", "![p](x)", "`code`", "www.x.org", "~~x~~"]
)
def test_markup_is_escaped(text: str, report: RobustnessReport) -> None:
    report.data = replace(DATA, name=text)
    summary = markdown_summary(report)
    assert text not in summary
    assert escaped(text) in summary or escaped(repr(text)) in summary


def test_the_area_of_a_patch_is_no_number_of_gray_levels(report: RobustnessReport) -> None:
    assert [budget_text(score) for score in report.scores[:4]] == ["", "10/255", "3.0% of the area", "8/255"]


def test_the_terminal_shows_every_row_once_even_of_attacks_with_the_same_name(report: RobustnessReport) -> None:
    report.scores.append(Score("hardened", "white-box", "pgd", 8 / 255, 50, 3, 45, "test"))  # with other settings
    table = report.table()
    shown = [tuple(map(str, cells)) for cells in zip(*(column.cells for column in table.columns), strict=True)]
    assert [row[:3] for row in shown] == [
        ("clean", "", ""),
        ("adaptive", "uapgd", "10/255"),
        ("adaptive", "advencoder-pat", "3.0% of the area"),
        ("white-box", "pgd", "8/255"),
        ("white-box", "pgd (2)", "8/255"),
    ]
    assert shown[3][3:] == ("0.0% [0.0%, 7.1%] 50", "10.0% [4.3%, 21.4%] 50")
    assert shown[4][3:] == ("", "6.0% [2.1%, 16.2%] 50")


def test_energy_is_told_in_words_that_people_use(report: RobustnessReport) -> None:
    assert cost_rows(report) == []
    cost = {
        "peak_memory": 3 << 30,
        "gpus": [{"name": "GPU 0", "peak_memory": 512 << 20}],
        "energy": {"cpu": {"joules": None, "reason": "no counter"}, "gpu": {"joules": 36_000.0}},
    }
    report.complete({"cost": cost})
    assert [value for _, value in cost_rows(report)] == [
        "3,072 MiB",
        "512 MiB",
        "not readable: no counter",
        "36.0 kJ (10.00 Wh), whole package, other processes included",
    ]


def test_the_terminal_neither_obeys_nor_interprets_strings_of_the_report(report: RobustnessReport) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e [/red] [link=https://e.invalid]x[/link]"
    report.data = replace(DATA, name=hostile)
    report.checks = [Check(hostile, False, hostile)]
    report.failures = [Failure("attack", hostile, hostile)]
    report.scores = [replace(row, attack=hostile) if row.attack else row for row in report.scores]
    console = Console(file=io.StringIO(), width=4000, force_terminal=True, color_system=None)
    for part in terminal_report(report):
        console.print(part)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert not {"\x1b", "\x07", "\u202e"} & set(re.sub("\x1b\\[[0-9;]*m", "", printed)), "only styles of our own"
    assert "\\x1b]0;owned\\x07\\x1b[2J\\u202e [/red] [link=https://e.invalid]x[/link]" in printed
    assert "WARNING" in printed.splitlines()[0], "the verdict comes first"


def test_printable_leaves_words_alone() -> None:
    assert printable("Zürich, 東京, 8/255 ≤ ε") == "Zürich, 東京, 8/255 ≤ ε"
