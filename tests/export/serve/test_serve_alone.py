"""serve/ as it ships inside a bundle: without genaf_sdk, without torch, with nothing but its requirements."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
import urllib.request
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from servers import our_server
from tiny import NAMES, SIZE, make_bundle, reference

import genaf_sdk.export.serve

SOURCE = Path(genaf_sdk.export.serve.__file__).parent
MODULES = sorted(path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("__"))


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    bundle = make_bundle(tmp_path / "shipped")
    shutil.copytree(SOURCE, bundle / "serve", ignore=shutil.ignore_patterns("__pycache__"))
    return bundle


def test_it_imports_neither_torch_nor_the_sdk(shipped: Path) -> None:
    code = f"""
import importlib, sys
for name in {[*MODULES, "__main__"]}:
    importlib.import_module("serve." + name)
print([name for name in ("torch", "torchvision", "genaf_sdk", "accelerate", "timm") if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=shipped,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_the_classifier_needs_no_server_packages(shipped: Path) -> None:
    code = """
import sys
from serve import load_bundle
print([name for name in ("starlette", "uvicorn", "grpc", "prometheus_client", "tritonclient") if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=shipped, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


def test_it_leaves_nothing_in_the_bundle(shipped: Path, tmp_path: Path) -> None:
    before = sorted(path for path in shipped.rglob("*"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    raw = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), "white").save(raw, "PNG")
    serve = (sys.executable, "-B", "-m", "serve")
    options = {"command": serve, "folder": shipped, "environment": environment, "log": tmp_path / "log"}
    with our_server("--drain", "0", **options) as (port, _, _):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/classify", raw.getvalue())
        assert urllib.request.urlopen(request, timeout=30).status == 200
    assert sorted(path for path in shipped.rglob("*")) == before


def test_no_file_names_a_module_outside(shipped: Path) -> None:
    for path in (shipped / "serve").glob("*.py"):
        for line in path.read_text().splitlines():
            assert not line.lstrip().startswith(("from genaf_sdk", "import genaf_sdk", "import torch", "from torch")), (
                path
            )


def test_everything_but_python_is_packaged_too() -> None:
    settings = tomllib.loads((SOURCE.resolve().parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"]
    others = {path.name for path in SOURCE.iterdir() if path.is_file() and path.suffix != ".py"}
    requirements = {f"requirements-{kind}{locked}.txt" for kind in ("cpu", "gpu") for locked in ("", "-locked")} | {
        "requirements-space.txt"
    }
    assert others == {"page.html", "Dockerfile", "Dockerfile.dockerignore", *requirements}
    assert "genaf_sdk.export.serve" in settings["packages"]
    patterns = settings["package-data"]["genaf_sdk.export.serve"]
    assert all(any(Path(name).match(pattern) for pattern in patterns) for name in others)


def test_the_requirements_differ_in_onnxruntime_alone() -> None:
    cpu, gpu = ((SOURCE / f"requirements-{kind}.txt").read_text().splitlines() for kind in ("cpu", "gpu"))
    different = [(one, other) for one, other in zip(cpu, gpu, strict=True) if one != other]
    assert different == [("onnxruntime>=1.27", "onnxruntime-gpu[cuda,cudnn]>=1.27")]


@pytest.mark.slow
def test_a_fresh_environment_serves_an_image(shipped: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    requirements = shipped / "serve" / "requirements-cpu.txt"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True, timeout=500)
    installed = json.loads(
        subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True).stdout
    )
    assert not {"torch", "genaf-sdk", "accelerate", "timm"} & {entry["name"] for entry in installed}
    raw = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(raw).save(file, "PNG")
    serve = (str(python), "-m", "serve")
    with our_server("--drain", "0", command=serve, folder=shipped, log=tmp_path / "log") as (port, _, _):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/classify", file.getvalue())
        content = json.loads(urllib.request.urlopen(request, timeout=30).read())
    expected = reference((raw[None].transpose(0, 3, 1, 2) / 255).astype(np.float32))[0]
    assert (content["model"], content["label"]) == ("shipped", NAMES[int(expected.argmax())])
    code = "import numpy as np, serve; print(serve.load_bundle('.').predict(np.zeros((1, 3, 32, 32), 'f4')).labels[0])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [python, "-c", code], cwd=shipped, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == NAMES[int(reference(np.zeros((1, 3, 1, 1)))[0].argmax())]
