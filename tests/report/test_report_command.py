"""``genaf report``: where it writes a page, where it does not, and what it says then."""

from __future__ import annotations

from pathlib import Path

import pytest

from genaf_sdk.cli import CHECK_FAILED, DONE, USAGE_ERROR, main
from genaf_sdk.report.robustness import RobustnessReport


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_page_elsewhere_is_replaced_only_where_that_is_asked_for(
    report: RobustnessReport, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.save(tmp_path / "evaluation")
    page = tmp_path / "page.html"
    page.write_text("of somebody else")
    command = ["report", str(tmp_path / "evaluation"), "--output", str(page)]
    assert main(command) == USAGE_ERROR
    assert "exists already" in words(capsys.readouterr().err)
    assert page.read_text() == "of somebody else"
    assert main([*command, "--overwrite"]) == DONE
    assert "</html>" in page.read_text(encoding="utf-8")


def test_the_page_in_the_folder_is_written_anew(report: RobustnessReport, tmp_path: Path) -> None:
    report.save(tmp_path)
    page = tmp_path / "report.html"
    for output in ([], ["--output", str(page)]):
        page.write_text("of before")
        assert main(["report", str(tmp_path), *output]) == DONE
        assert "</html>" in page.read_text(encoding="utf-8")


def test_a_report_whose_page_cannot_be_written_is_shown_all_the_same(
    report: RobustnessReport, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.save(tmp_path)
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()  # no more to be written than in a folder that is read-only
    assert main(["report", str(tmp_path)]) == CHECK_FAILED
    shown = capsys.readouterr()
    assert report.verdict[:40] in words(shown.out)
    assert "name a file elsewhere by --output" in words(shown.err)
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "page.html")]) == DONE
    assert "</html>" in (tmp_path / "page.html").read_text(encoding="utf-8")
