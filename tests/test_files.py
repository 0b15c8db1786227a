from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from safetensors import safe_open

from genaf_sdk.errors import OutputError
from genaf_sdk.files import read_json, replacing, require_writable, write_json


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"old": True})

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(path) == {"old": True}
    assert list(tmp_path.iterdir()) == [path]


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "report.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    (tmp_path / "model.onnx" / "kept").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_json(tmp_path / "model.onnx", {})


def test_a_full_disk_is_an_error_of_ours_and_leaves_no_file(tmp_path: Path) -> None:
    program = f"""
import resource, signal
from pathlib import Path
from genaf_sdk.errors import OutputError
from genaf_sdk.files import write_json
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_json(Path({str(tmp_path / "big.json")!r}), ["x" * 100] * 100)
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "free space" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_probe_for_a_folder_leaves_no_trace(tmp_path: Path) -> None:
    assert not list(require_writable(tmp_path / "new").iterdir())


def test_a_file_is_no_output_folder(tmp_path: Path) -> None:
    (tmp_path / "report.json").touch()
    with pytest.raises(OutputError, match=r"report\.json' cannot be written: it is a file"):
        require_writable(tmp_path / "report.json")


def whole(path: Path) -> None:
    """Fail unless a file under a final name is complete."""
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            list(file.keys())
    elif path.suffix == ".onnx":
        onnx.checker.check_model(onnx.load(path))
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>")


def test_a_run_killed_at_any_moment_leaves_no_half_written_file(tmp_path: Path) -> None:
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from export_helpers import tiny_result
print("ready", flush=True)
result = tiny_result()
for _ in range(100):
    result.save(sys.argv[2])
    print("saved", flush=True)
"""
    helpers = str(Path(__file__).parent / "export")
    arguments = [sys.executable, "-W", "ignore", "-c", program, helpers, str(tmp_path)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        assert process.stdout.readline() == "saved\n"
        time.sleep(random.Random(os.getpid()).uniform(0, 4))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        process.stdout.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"report.json", "model.onnx", "model.safetensors"} <= {path.name for path in files}
    for path in files:
        if not any(part.startswith(".") for part in path.relative_to(tmp_path).parts):
            whole(path)
