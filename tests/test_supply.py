"""What is installed along with the package: without published holes, the same everywhere, and all that is imported."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tools")]

import audit  # noqa: E402
import lock  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = {canonicalize_name(line.name): line for line in map(Requirement, PROJECT["dependencies"])}
OPTIONAL = {
    "art": "autoattack",
    "cryptography": "signing",
    "cyclonedx": "signing",
    "datasets": "datasets",
    "model_signing": "signing",
    "multiprocess": "autoattack",
    "OpenSSL": "signing",
    "packageurl": "signing",
    "peft": "lora",
    "pynvml": "energy",
    "transformers": "transformers",
}
"""Modules of extras, which are imported only where they are asked for."""


def test_no_bound_admits_a_hole_of_the_list() -> None:
    assert audit.admitted(audit.asked(), audit.advisories()) == []


@pytest.mark.parametrize("line", ["pillow>=10.3", "Pillow", "h11>=0.14", "torch==2.9.1", "transformers>=5.3,<6"])
def test_a_bound_that_admits_one_is_named(line: str) -> None:
    (found,) = {
        text.partition(" admits")[0]
        for text in audit.admitted([audit.Asked("here", Requirement(line))], audit.advisories())
    }
    assert found.startswith(f"here: {Requirement(line).name}")


def test_every_package_with_an_advisory_is_asked_for_somewhere() -> None:
    names = {canonicalize_name(entry.requirement.name) for entry in audit.asked()}
    assert {advisory.package for advisory in audit.advisories()} <= names


def test_the_list_is_well_formed() -> None:
    content = json.loads((ROOT / "tools" / "advisories.json").read_text())
    for entry in content["advisories"]:
        assert set(entry) == {"package", "fixed", "ids", "about"}
        assert entry["package"] == canonicalize_name(entry["package"])
        assert all(re.fullmatch(r"CVE-\d{4}-\d{4,}|GHSA(-[0-9a-z]{4}){3}", name) for name in entry["ids"])
        assert entry["ids"]
    order = [(entry["package"], Version(entry["fixed"])) for entry in content["advisories"]]
    assert order == sorted(order)
    assert len(order) == len(set(order))


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_bundle_asks_for_what_the_package_asks_for(kind: str) -> None:
    for line in audit.lines_of(ROOT / "export" / "serve" / f"requirements-{kind}.txt"):
        stated = Requirement(line)
        base = BASE[canonicalize_name(stated.name)]
        assert stated.specifier == base.specifier, line
        if not stated.name.startswith("onnxruntime"):
            assert (stated.extras, str(stated.marker)) == (base.extras, str(base.marker)), line


def imported(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it, but for those of its own package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found - {"genaf_sdk", "_typeshed"} - set(sys.stdlib_module_names)


def test_all_that_is_imported_is_installed_along() -> None:
    dists = importlib.metadata.packages_distributions()
    files = [*(ROOT / "genaf_sdk").rglob("*.py"), *(ROOT / "export").rglob("*.py")]
    for path in files:
        for module in imported(path):
            if module in OPTIONAL:
                assert OPTIONAL[module] in PROJECT["optional-dependencies"]
                continue
            names = {canonicalize_name(name) for name in dists[module]}
            names |= {"grpcio": {"tritonclient"}, "markupsafe": {"jinja2"}}.get(min(names), set())
            assert names & set(BASE), f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("path", lock.LOCKS, ids=lambda path: path.name)
def test_locks_are_within_the_bounds_and_name_no_index(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    source, _, hashes = lock.LOCKS[path]
    pinned = {}
    for line in audit.lines_of(path):
        requirement = Requirement(line)
        (part,) = requirement.specifier
        assert part.operator == "=="
        pinned[canonicalize_name(requirement.name)] = Version(part.version)
    asked = BASE.values() if source.suffix == ".toml" else map(Requirement, audit.lines_of(source))
    for requirement in asked:
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pinned[name]), f"{path.name}: {name}; run tools/lock.py"
    entries = re.split(r"\n(?=\S)", text.partition("\n")[2].strip())
    assert all(("--hash=sha256:" in entry) == hashes for entry in entries)


def test_the_image_installs_hashed_files_and_runs_without_rights() -> None:
    text = (ROOT / "export" / "serve" / "Dockerfile").read_text()
    assert f"python:{lock.IMAGE_PYTHON}-slim" in text
    assert "--require-hashes" in text
    assert "requirements-${REQUIREMENTS}-locked.txt" in text
    assert re.search(r"^USER 10001$", text, re.M)
    assert "--read-only" in text
    assert "--cap-drop ALL" in text


def test_every_python_that_is_promised_is_tested() -> None:
    versions = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert min(versions, key=Version) == PROJECT["requires-python"].removeprefix(">=")
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert set(re.findall(r'"(3\.\d+)"', workflow)) >= versions
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(version) for version in versions)
