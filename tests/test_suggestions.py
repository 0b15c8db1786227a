"""What the package tells people to run can be run: commands parse, options exist, extras and packages are there."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from genaf_sdk.cli import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_OURS = {"tensorrt-cu13", "onnxruntime", "onnxruntime-gpu", "x"}
"""Packages that a message names though the package does not ask for them; x stands for a name put in at run time."""


def texts(path: Path) -> list[str]:
    """The strings of a file, with x for whatever is put into them at run time."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


FILES = [
    path
    for folder in ("genaf_sdk", "export")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "genaf_sdk/export" not in path.as_posix()
]
TEXTS = [(path.relative_to(ROOT).as_posix(), " ".join(text.split())) for path in FILES for text in texts(path)]
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "results" not in p.parts)]


def commands_of(page: Path) -> list[str]:
    """What a page tells people to run, between backticks and in blocks, those that are not run included."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```$", text, re.M | re.S)
    lines = [line for block in blocks for line in re.findall(r"^(?:\$ )?(genaf [^#\n|>&]*)", block, re.M)]
    return [*lines, *re.findall(r"`(genaf [^`]*)`", " ".join(text.split()))]


COMMANDS = sorted(
    {(place, match) for place, text in TEXTS for match in re.findall(r"`(genaf [^`]*)`", text)}
    | {(page.relative_to(ROOT).as_posix(), line.strip()) for page in PAGES for line in commands_of(page)}
)
WORD = r"""(?:-{1,2}[a-zA-Z-]+|'[^']+'|"[^"]+"|[A-Za-z][A-Za-z0-9._/\[\]-]*)"""
PIP = sorted(
    {(place, match.strip()) for place, text in TEXTS for match in re.findall(rf"pip install((?: {WORD})+)", text)}
)


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What --help says, by command."""
    return {}


def help_of(command: str, helps: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    if command not in helps:
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"] if command else ["--help"])
        assert not stopped.value.code, command
        helps[command] = capsys.readouterr().out
    return helps[command]


def test_there_are_suggestions_to_look_at() -> None:
    assert len({command for _, command in COMMANDS}) >= 10
    assert len(PIP) >= 4


@pytest.mark.parametrize(("place", "line"), COMMANDS)
def test_a_suggested_command_exists_with_its_options(
    place: str, line: str, helps: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line.replace("...", ""))[1:]
    if words and words[0] == "--tyro-print-completion":  # tyro's own, which its help leaves out
        words = []
    command = words[0] if words and not words[0].startswith("-") else ""
    if command == "COMMAND":  # stands for any
        command = "x"
    if command and command != "x":
        assert command in help_of("", helps, capsys), f"{place}: {line}"
    text = help_of("" if command == "x" else command, helps, capsys)
    for word in words:
        if word.startswith("--") and word not in ("--help", "--debug", "--version"):
            assert word.partition("=")[0] in text, f"{place}: {line} has no {word}"


@pytest.mark.parametrize(("place", "line"), PIP)
def test_a_suggested_installation_names_what_there_is(place: str, line: str) -> None:
    asked = {
        canonicalize_name(Requirement(text).name)
        for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for text in group
    }
    for word in shlex.split(line):
        if word.startswith("-") or "/" in word:
            continue
        requirement = Requirement(word)
        name = canonicalize_name(requirement.name)
        if name == "genaf-sdk":
            assert requirement.extras, f"{place}: no index has this package"
            assert requirement.extras <= set(PROJECT["optional-dependencies"]), f"{place}: {line}"
        else:
            assert name in asked | NOT_OURS, f"{place}: {line}"


def test_the_hub_client_has_the_command_that_logs_in() -> None:
    scripts = {entry.name for entry in importlib.metadata.entry_points(group="console_scripts")}
    assert any("`hf auth login`" in text for _, text in TEXTS)
    assert "hf" in scripts


@pytest.mark.slow
def test_what_the_demo_suggests_works(tmp_path: Path) -> None:
    paths = os.pathsep.join(map(str, (ROOT / "tests" / "reduced", ROOT)))
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "suggested.py", "demo"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = re.findall(r"^\$ genaf (\S+)", done.stdout, re.M)
    assert {"demo", "verify", "serve", "harden"} <= set(run)
