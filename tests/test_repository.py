"""The repository's own files: workflows that run what everybody can run, templates and metadata that can be read."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from genaf_sdk import __version__

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
CI = (ROOT / ".ci" / "run").read_text()


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def steps(workflow: Any) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_can_be_run_anywhere(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}, "more only where a job says so"
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 240
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        for line in step.get("run", "").strip().splitlines():
            program, *arguments = line.split()
            if program == "make":
                assert arguments[0] in TARGETS, line
            else:
                assert os.access(ROOT / program, os.X_OK), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_of_others_are_named_by_commit_and_get_no_credentials(path: Path) -> None:
    for step in steps(load(path)):
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    for line in path.read_text().splitlines():
        assert "uses:" not in line or re.search(r"# v\d+\.\d+\.\d+$", line), "dependabot reads the version there"


def test_three_systems_and_four_pythons_are_tested() -> None:
    matrix = load(GITHUB / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert {system.partition("-")[0] for system in matrix["system"]} == {"ubuntu", "macos", "windows"}
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]


def test_only_the_release_may_publish_and_needs_no_password() -> None:
    release = load(GITHUB / "workflows" / "release.yml")
    assert release[True] == {"push": {"tags": ["v*"]}}, "`on`, as YAML 1.1 reads it"
    assert release["jobs"]["publish"]["permissions"]["id-token"] == "write"
    for path in WORKFLOWS:
        text = path.read_text()
        assert "secrets." not in text
        assert path.name == "release.yml" or ("id-token" not in text and "publish" not in text.partition("jobs:")[2])


def test_what_workflows_run_is_what_the_check_of_every_change_runs() -> None:
    used = {
        line.split()[1]
        for path in WORKFLOWS
        for step in steps(load(path))
        for line in step.get("run", "").splitlines()
        if line.startswith("make ")
    }
    elsewhere = {"publish", "test-slow", "test-lowest"}  # they publish, or take hours
    assert {target for target in used - elsewhere if f"make {target}" not in CI} == set()
    assert "make lint" in CI


def test_large_results_stay_out_of_diffs_and_of_the_package() -> None:
    large = [path for path in (ROOT / "docs" / "results").rglob("*.jsonl") if path.stat().st_size > 20_000]
    lines = subprocess.run(
        ["git", "check-attr", "diff", "--", *map(str, large)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if lines.returncode:
        pytest.skip("no git here")
    assert lines.stdout.count(": diff: unset\n") == len(large) > 0
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert not any("results" in pattern for patterns in data.values() for pattern in patterns)


@pytest.mark.parametrize("built_by", ["GitHub", "somebody else"])
def test_what_an_index_shows_of_the_readme_has_no_dead_link(built_by: str) -> None:
    here = {"GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "one/two", "GITHUB_SHA": "abc"}
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = runpy.run_path(str(ROOT / "setup.py"))["for_an_index"](readme, here if built_by == "GitHub" else {})
    linked = re.findall(r"\]\(([^)]*)\)", shown)
    assert linked
    assert all(link.startswith("https://") for link in linked)
    assert ("![" in shown) == (built_by == "GitHub")
    for kind, local in re.findall(r"https://example\.org/one/two/(raw|blob)/abc/([^)#]+)", shown):
        assert (ROOT / local).exists()
        assert (kind == "raw") == (Path(local).suffix in (".svg", ".png"))
    assert [line for line in shown.splitlines() if line.startswith("```")] == [
        line for line in readme.splitlines() if line.startswith("```")
    ]


def test_every_target_says_what_it_does_and_is_no_file() -> None:
    described = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M))
    assert described == TARGETS - {"clean"}
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split())  # type: ignore[index]
    assert phony == TARGETS


@pytest.mark.parametrize("path", sorted((GITHUB / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.name)
def test_a_form_asks_for_what_can_be_answered(path: Path) -> None:
    form = load(path)
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0
    for part in form["body"]:
        assert part["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert "attributes" in part


def test_dependabot_watches_packages_image_and_actions() -> None:
    content = load(GITHUB / "dependabot.yml")
    assert content["version"] == 2
    watched = {entry["package-ecosystem"]: entry["directory"] for entry in content["updates"]}
    assert set(watched) == {"pip", "docker", "github-actions"}
    assert (ROOT / watched["docker"].strip("/") / "Dockerfile").is_file()


def test_pre_commit_runs_the_tools_of_the_development_environment() -> None:
    (local,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    names = {re.split(r"[>=\[;]", line)[0] for line in wanted}
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert Path(hook["entry"].split()[0]).name in names
    assert {hook["id"] for hook in local["hooks"]} == {"ruff-check", "ruff-format", "mypy", "codespell"}


def test_the_citation_is_whole_and_of_this_version() -> None:
    citation = load(ROOT / "CITATION.cff")
    assert {"cff-version", "title", "message", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert citation["authors"] == [{"name": "The genaf-sdk developers"}]
    (paper,) = citation["references"]
    assert paper["year"] == 2024
    assert len(paper["authors"]) == 10
    assert all({"family-names", "given-names"} == set(author) for author in paper["authors"])
    assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    "name",
    ["SECURITY.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "tests/README.md", ".github/PULL_REQUEST_TEMPLATE.md"],
)
def test_links_of_the_repository_lead_somewhere(name: str) -> None:
    path = ROOT / name
    text = path.read_text("utf-8")
    assert "@" not in re.sub(r"`[^`]*`", "", text), "no address is made up"
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert "://" in target or (path.parent / target).exists(), target


def test_every_promise_of_security_has_its_tests() -> None:
    table = (
        (ROOT / "docs" / "security.md").read_text("utf-8").partition("## Promise by promise")[2].partition("\n## ")[0]
    )
    rows = re.findall(r"^\| [A-Z].* \| `(tests/\S+\.py)`: (.*) \|$", table, re.M)
    assert len(rows) == table.count("\n| ") - 2 > 20
    for file, names in rows:
        text = (ROOT / file).read_text("utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert f"def {name}(" in text, f"{file} has no {name}"
