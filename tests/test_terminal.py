"""Text of foreign origin on a terminal: shown as it is, never obeyed."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
from rich.table import Table

from genaf_sdk import progress
from genaf_sdk.cli import DONE, USAGE_ERROR, main
from genaf_sdk.cli.output import print_json
from genaf_sdk.errors import GenafError
from genaf_sdk.export.serve.logs import printable as printable_of_the_server
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Check, Score
from genaf_sdk.report.sections import DataDescription, Sizes
from genaf_sdk.terminal import PlainConsole, json_text, printable

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202etxt [/red] [link=https://e.invalid]x[/link] :smile: \x9b31m \udce9"
RAW = ("\x1b", "\x07", "\u202e", "\x9b", "\udce9")


def harmless(text: str) -> bool:
    """Whether what was printed steers nothing; its markup and its escapes have to be there to be read."""
    return not any(raw in text for raw in RAW)


@pytest.mark.parametrize("spell", [printable, printable_of_the_server])
def test_what_steers_a_terminal_is_spelt_out(spell: object) -> None:
    assert callable(spell)
    assert spell("\x1b[2J\x07\x9b \u202e\udce9") == r"\x1b[2J\x07\x9b \u202e\udce9"
    kept = "Käse 猫 x\n\ty [/red] 8/255 ±"
    assert spell(kept) == kept


def test_spaces_of_every_script_stay() -> None:
    assert printable("12\u202f000\u3000x\xa0y") == "12\u202f000\u3000x\xa0y"


def test_json_keeps_its_values() -> None:
    content = {"name": HOSTILE, "猫": [1, None, "\n"]}
    text = json_text(content)
    assert harmless(text)
    assert json.loads(text) == content
    assert "猫" in text


def test_a_console_takes_strings_for_text_in_lines_and_cells() -> None:
    console = PlainConsole(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    table = Table("name", title="[bold]t[/]")
    table.add_row(HOSTILE)
    console.print(HOSTILE, table, soft_wrap=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert harmless(text)
    assert text.count("[/red] [link=https://e.invalid]x[/link] :smile:") == 2
    assert text.count(r"\x1b]0;owned\x07\x1b[2J\u202etxt") == 2


def test_a_report_of_others_is_shown_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = HOSTILE.strip("\udce9")
    RobustnessReport(
        data=DataDescription(name, Sizes(9, 9, 9), [name, "b"], (3, 8, 8), "0" * 64),
        scores=[
            Score("hardened", "clean", "", 0, 9, 8, 0),
            Score("hardened", "transfer", name, 10 / 255, 9, 5, 3, crafting_data="train"),
        ],
        checks=[Check(name, False, name)],
        notes=[name],
    ).save(tmp_path)
    for options in ([], ["--markdown"], ["--json"]):
        assert main(["report", str(tmp_path), *options]) == DONE
        said = capsys.readouterr().out
        assert harmless(said), options
        assert "owned" in said
    assert harmless((tmp_path / "report.html").read_text("utf-8"))
    (tmp_path / "pwned \x1b]0;x\x07").mkdir()
    assert main(["report", str(tmp_path / "pwned \x1b]0;x\x07")]) == USAGE_ERROR
    assert harmless(capsys.readouterr().err)


def test_error_texts_and_arguments_are_shown_not_obeyed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["attack", HOSTILE]) == USAGE_ERROR
    error = capsys.readouterr().err
    assert harmless(error)
    assert "[/red]" in " ".join(error.split())
    assert r"\x1b" in error

    def fails(_: object) -> int:
        raise GenafError(HOSTILE)

    monkeypatch.setattr("genaf_sdk.cli.listing.Data.__call__", fails)
    assert main(["data", "--debug", "--json"]) == USAGE_ERROR
    said = capsys.readouterr()
    assert harmless(said.err)
    assert harmless(said.out)
    assert json.loads(said.out)["error"]["problem"] == HOSTILE


def test_progress_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        target = io.StringIO()

        def console(terminal: bool = terminal, target: io.StringIO = target, **_: object) -> PlainConsole:
            return PlainConsole(
                file=target, force_terminal=terminal, width=300, color_system=None, legacy_windows=False
            )

        monkeypatch.setattr(progress, "PlainConsole", console)
        with progress.make_display(wanted=True) as display:
            task = display.add_task("evaluation", total=None)
            display.update(task, figures=HOSTILE)
        text = target.getvalue()
        assert "\x1b]0;owned" not in text
        assert "\u202e" not in text
        assert r"\x1b]0;owned\x07" in text
        assert "[/red]" in text


def test_warnings_of_the_package_are_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    handler = logging.lastResort
    assert handler is not None
    record = logging.LogRecord("genaf_sdk", logging.WARNING, "x.py", 1, "class %s", (HOSTILE,), None)
    assert harmless(handler.format(record))


def test_json_where_the_terminal_cannot_show_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr("sys.stdout", stream)
    print_json({"猫": "Käse"})
    stream.flush()
    assert json.loads(stream.buffer.getvalue().decode("cp1252")) == {"猫": "Käse"}  # type: ignore[attr-defined]
