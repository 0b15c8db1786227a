"""What is installed along with the package: without published holes, the same everywhere, and all that is imported."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
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
import pin_image  # noqa: E402

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


SPACE = ROOT / "export" / "serve" / "space"
"""Runs in an environment of its own, as Gradio takes no Pillow that this package takes."""


def test_a_space_asks_for_what_its_page_imports() -> None:
    asked = {
        canonicalize_name(Requirement(line).name) for line in audit.lines_of(SPACE.parent / "requirements-space.txt")
    }
    modules = set().union(*(imported(path) for path in SPACE.rglob("*.py")))
    assert modules == {"gradio", "numpy", "PIL", "safetensors"}
    server = {"google": "protobuf", "onnx": "onnx", "onnxruntime": "onnxruntime"}  # what the classifier imports
    assert asked == {"gradio", "numpy", "pillow", "safetensors", *server.values()}


def test_all_that_is_imported_is_installed_along() -> None:
    dists = importlib.metadata.packages_distributions()
    files = [*(ROOT / "genaf_sdk").rglob("*.py"), *(ROOT / "export").rglob("*.py")]
    files = [path for path in files if not path.resolve().is_relative_to(SPACE)]
    for path in files:
        for module in imported(path):
            if module in OPTIONAL:
                assert OPTIONAL[module] in PROJECT["optional-dependencies"]
                continue
            names = {canonicalize_name(name) for name in dists[module]}
            names |= {"markupsafe": {"jinja2"}}.get(min(names), set())
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
    assert len(lock.PACKAGE.findall(text)) == len(audit.lines_of(path)), "what tools/lock.py counts"
    entries = re.split(r"\n(?=\S)", text.partition("\n")[2].strip())
    assert all(("--hash=sha256:" in entry) == hashes for entry in entries)


def test_the_image_installs_hashed_files_and_runs_without_rights() -> None:
    text = (ROOT / "export" / "serve" / "Dockerfile").read_text()
    assert f"python:{lock.IMAGE_PYTHON}-slim" in text
    assert "--require-hashes" in text
    assert "requirements-${REQUIREMENTS}-locked.txt" in text
    count = len(audit.lines_of(ROOT / "export" / "serve" / "requirements-cpu-locked.txt"))
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    assert f"`serve/requirements-cpu-locked.txt` ({count} packages;" in page
    assert re.search(r"^USER 10001$", text, re.M)
    assert "--read-only" in text
    assert "--cap-drop ALL" in text


DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.skipif(sys.platform == "win32", reason="a shell")
@pytest.mark.parametrize(
    ("base", "tag", "built"),
    [
        ("python:3.13-slim", "no", False),
        ("python:3.13-slim@sha256:short", "no", False),
        ("python:3.13-slim", "yes", True),
        (f"python:3.13-slim@{DIGEST}", "no", True),
        (f"python@{DIGEST}", "no", True),
    ],
)
def test_an_image_is_built_on_bytes_that_are_known(base: str, tag: str, built: bool) -> None:
    text = (ROOT / "export" / "serve" / "Dockerfile").read_text()
    check = re.search(r"^RUN (case .*?esac)$", text, re.M | re.S)
    assert check is not None
    done = subprocess.run(
        ["/bin/sh", "-c", check[1].replace("\\\n", "")],
        env={"BASE": base, "TAG": tag}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == built, done.stderr
    assert built or f"BASE is the tag {base}" in done.stderr


def test_the_digest_of_the_image_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "Dockerfile"
    copy.write_text((ROOT / "export" / "serve" / "Dockerfile").read_text())
    monkeypatch.setattr(pin_image, "DOCKERFILE", copy)
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\n[ "$4" = python:3.13-slim ] && echo {DIGEST}\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    for _ in range(2):
        assert pin_image.main() == 0
        assert f"\nARG BASE=python:3.13-slim@{DIGEST}\n" in copy.read_text()
    docker.write_text("#!/bin/sh\necho none >&2\nexit 1\n")
    before = copy.read_text()
    assert pin_image.main() == 1
    assert copy.read_text() == before


def test_every_python_that_is_promised_is_tested() -> None:
    versions = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert min(versions, key=Version) == PROJECT["requires-python"].removeprefix(">=")
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert set(re.findall(r'"(3\.\d+)"', workflow)) >= versions
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(version) for version in versions)
