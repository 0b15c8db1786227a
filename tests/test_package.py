"""The package as it is installed: every folder is listed, nothing heavy is imported early, one way to import export."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import genaf_sdk

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources() -> list[Path]:
    folders = (ROOT / "genaf_sdk", ROOT / "export")
    return [path for folder in folders for path in folder.rglob("*.py") if "genaf_sdk/export" not in path.as_posix()]


def test_every_package_folder_is_listed() -> None:
    found = {"genaf_sdk." + path.parent.relative_to(ROOT / "genaf_sdk").as_posix().replace("/", ".") for path in
             (ROOT / "genaf_sdk").rglob("__init__.py") if path.parent != ROOT / "genaf_sdk"}  # fmt: skip
    found |= {"genaf_sdk." + path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in
              (ROOT / "export").rglob("__init__.py")}  # fmt: skip
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == found | {"genaf_sdk", "genaf_sdk.report.templates"}


def test_every_public_name_can_be_had_and_has_a_docstring() -> None:
    for name in genaf_sdk.__all__:
        value = getattr(genaf_sdk, name)
        assert name == "__version__" or value.__doc__, name


def test_importing_the_package_loads_no_torch() -> None:
    heavy = {"torch", "torchvision", "timm", "accelerate", "numpy", "onnx", "onnxruntime", "sklearn", "matplotlib"}
    program = f"import sys, genaf_sdk; assert not ({heavy | {'tyro', 'rich'}} & set(sys.modules))"
    program += f"; import genaf_sdk.cli; assert not ({heavy} & set(sys.modules)), {heavy} & set(sys.modules)"
    program += "; genaf_sdk.harden; assert 'torch' in sys.modules and callable(genaf_sdk.harden)"
    program += "; assert 'torch.distributed.tensor' not in sys.modules, 'seconds, for who shares out no weights'"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_no_bare_asserts_prints_or_devices_in_the_package() -> None:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr != "cuda", f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path}:{node.lineno}"


def test_attacks_and_robustness_never_import_training() -> None:
    for path in sources():
        relative = path.relative_to(ROOT).as_posix()
        if relative.startswith(("genaf_sdk/attacks", "genaf_sdk/evaluation", "genaf_sdk/report")):
            assert "genaf_sdk.engine" not in path.read_text(), relative


@pytest.mark.slow
def test_a_checkout_without_symbolic_links_installs(tmp_path: Path) -> None:
    """Git on Windows writes the link ``genaf_sdk/export`` as a text file, unless it may make links."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    checkout, environment = tmp_path / "checkout", tmp_path / "environment"
    clone = ["git", "clone", "--quiet", "--config", "core.symlinks=false", str(ROOT), str(checkout)]
    subprocess.run(clone, check=True, timeout=120)
    assert (checkout / "genaf_sdk/export").is_file()
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    install = [*pip, "install", "--quiet", "--no-deps", "--editable", "."]
    subprocess.run(install, cwd=checkout, check=True, timeout=300)
    program = "from importlib.util import find_spec; print(find_spec('genaf_sdk.export').origin)"
    found = subprocess.run([str(python), "-c", program], cwd=checkout, capture_output=True, text=True, timeout=60)
    assert Path(found.stdout.strip()) == checkout / "export/__init__.py", found.stderr
