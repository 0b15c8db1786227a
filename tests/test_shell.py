"""The command line in the shells that there are: pipes, code pages, closed streams, `~`, YAML, versions, names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate import Accelerator

from genaf_sdk import __version__
from genaf_sdk.cli import DONE, USAGE_ERROR, main, plain_yaml
from genaf_sdk.cli.settings import starting_settings
from genaf_sdk.engine.accelerator import own_accelerator
from genaf_sdk.errors import ConfigError

GENAF = [sys.executable, "-m", "genaf_sdk"]
posix = pytest.mark.skipif(sys.platform == "win32", reason="descriptors of POSIX")


def genaf(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[bytes]:
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUTF8"} | (env or {})
    return subprocess.run([*GENAF, *map(str, arguments)], env=environment, check=False, timeout=300, **settings)


def without_reader(*arguments: object, streams: tuple[str, ...]) -> subprocess.CompletedProcess[bytes]:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return genaf(*arguments, **dict.fromkeys(streams, writing))
    finally:
        os.close(writing)


def test_the_reader_of_a_pipe_decides_no_exit_code() -> None:
    assert without_reader("data", streams=("stdout",)).returncode == DONE
    assert without_reader("attacks", "--json", streams=("stdout", "stderr")).returncode == DONE
    assert without_reader("attack", "nonsense", streams=("stdout", "stderr")).returncode == USAGE_ERROR


@posix
@pytest.mark.parametrize("redirection", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams_stop_nothing_and_no_file_takes_their_place(redirection: str, tmp_path: Path) -> None:
    program = f"{sys.executable} -m genaf_sdk attack noise --samples 4 --output delta.safetensors {redirection}"
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, check=False, timeout=300)
    assert done.returncode == DONE
    assert [path.name for path in tmp_path.iterdir()] == ["delta.safetensors"]


@posix
def test_a_bar_that_nobody_sees_stops_nothing(tmp_path: Path) -> None:
    program = """
import sys, os
from genaf_sdk.cli.streams import prepare_streams
from genaf_sdk.progress import make_display
prepare_streams()
with make_display(wanted=True) as display:
    task = display.add_task("stage 1", total=9)
    for step in range(9):
        display.update(task, completed=step + 1, figures=f"{step}" * 200, description=f"epoch {step}")
print("trained")
"""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writing, check=False)
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"trained\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_cannot_be_delivered_is_an_error_and_a_figure_that_cannot_be_told_is_none() -> None:
    with Path("/dev/full").open("wb") as full:
        done = genaf("data", "--json", stdout=full)
        assert done.returncode == USAGE_ERROR
        assert b"Standard output cannot be written: No space left" in done.stderr
        assert genaf("data", "--json", stderr=full).returncode == DONE


@pytest.mark.parametrize("page", ["ascii", "cp1252"])
def test_every_code_page_gets_utf_8(page: str) -> None:
    done = genaf("--help", env={"PYTHONIOENCODING": page})
    assert done.returncode == DONE
    assert "harden" in done.stdout.decode("utf-8")
    done = genaf("report", "猫", env={"PYTHONIOENCODING": page})
    assert done.returncode == USAGE_ERROR
    assert "猫" in done.stderr.decode("utf-8")


def test_the_version_says_what_a_report_of_a_fault_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == DONE
    said = capsys.readouterr().out
    assert said.startswith(f"genaf-sdk {__version__} (Python 3.")
    assert "torch " in said
    assert "onnxruntime" in said


def test_a_tilde_is_the_home_folder_in_every_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["attack", "noise", "--samples", "4", "--output=~/a.safetensors"]) == DONE
    assert main(["attack", "noise", "--samples", "4", "--output", "~/b.safetensors"]) == DONE
    assert {path.name for path in (tmp_path / "home").iterdir()} == {"a.safetensors", "b.safetensors"}
    for command in (["verify", "~/b"], ["report", "~/b"], ["serve", "~/b"], ["serve", "m=~/b"], ["push", "~/b", "o/n"]):
        assert main(command) == USAGE_ERROR
        said = " ".join(capsys.readouterr().err.split())
        assert "~" not in said.replace(" ", ""), command
    settings = tmp_path / "home" / "s.yaml"
    settings.write_text("output_dir: ~/out\n")
    assert starting_settings(["harden", "--config", str(settings)])[1]["output_dir"] == tmp_path / "home" / "out"
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("Yes", "Yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-3", -3),
        ("1:30", "1:30"),
        ("2026-11-25", "2026-11-25"),
        ("1e-3", 1e-3),
        ("2.5", 2.5),
        (".5", 0.5),
        ("1_000", "1_000"),
        ("", None),
        ("~", None),
        ("null", None),
        (".inf", float("inf")),
        ("8/255", "8/255"),
        ("'010'", "010"),
        ("[no, 1]", ["no", 1]),
        ("=", "="),
    ],
)
def test_yaml_is_read_as_it_reads(text: str, value: object) -> None:
    assert plain_yaml.load(f"a: {text}") == {"a": value}


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: {b: 1, c: 2, b: 3}", "a: !!python/object/apply:os.getpid []"])
def test_yaml_that_says_two_things_or_runs_code_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        plain_yaml.load(text)


@pytest.mark.parametrize("again", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_that_grow_without_end_are_refused(again: str) -> None:
    """Each of a few lines stands for nine of the line before; read as they are, they would fill any memory."""
    lines = ["a: &a0 {x: 1}", *(f"a{i}: &a{i} {again.format(', '.join([f'*a{i - 1}'] * 9))}" for i in range(1, 300))]
    assert len(plain_yaml.load("\n".join(lines[:4]))) == 4
    with pytest.raises(yaml.YAMLError, match="its aliases stand for more than 100,000 values"):
        plain_yaml.load("\n".join(lines))


def test_json_is_yaml() -> None:
    content = {"a": [1, 1e-05, 1e400, None, True, "é\n", {"b": {}}], "c": -0.0}
    assert plain_yaml.load(json.dumps(content, indent=1).replace("Infinity", ".inf")) == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2", "given twice"),
        ("output_dir: 5", "in quotes"),
        ("data: [a]", "in quotes"),
        ("preset: 3", "in quotes"),
        ("encoder: ", "encoder is None"),
    ],
)
def test_settings_of_another_kind_are_errors_that_say_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        starting_settings(["harden", "--config", str(tmp_path / "s.yaml")])


def test_settings_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("seed: 010\nmixed_precision: no\n", encoding="utf-8-sig")
    settings, _ = starting_settings(["harden", "--config", str(tmp_path / "s.yaml")])
    assert (settings.seed, settings.machine.mixed_precision) == (10, "no")


@pytest.mark.parametrize("name", ["org/a--b", "org/name-", "org/name.git", "org/" + "x" * 100])
def test_names_that_the_hub_refuses_are_refused_before_the_network(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.create_connection", asked)
    assert main(["push", str(tmp_path), name]) == USAGE_ERROR
    assert "no name that the Hub takes" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_served_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("serve", "bench-serve"):
        assert main([command, str(tmp_path / "nothing")]) == USAGE_ERROR
        assert "There is no file" in capsys.readouterr().err


def test_variables_of_another_project_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with own_accelerator("no") as accelerator:
        assert accelerator.gradient_accumulation_steps == 1


def test_what_another_project_accumulates_plays_no_part_and_goes_on() -> None:
    theirs = Accelerator(cpu=True, gradient_accumulation_steps=4)
    try:
        theirs.gradient_state._set_sync_gradients(False)  # as between two of their steps
        with own_accelerator("no") as accelerator:
            assert accelerator.gradient_accumulation_steps == 1
            assert accelerator.sync_gradients, "else optimizers would not move"
        assert theirs.gradient_accumulation_steps == 4
        assert not theirs.sync_gradients
    finally:
        theirs.gradient_state._set_sync_gradients(True)
