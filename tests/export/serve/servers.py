"""A real tritonserver from the nvidia-pytriton wheel, which lives in an environment of its own (numpy < 2)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT = "TRITONSERVER_ENV"
"""Names the environment's folder: python -m venv ENV; ENV/bin/pip install nvidia-pytriton==0.7.0 "numpy<2"."""

# What tests and benchmarks serve elsewhere as ONNX: the mean of each channel, then one linear layer.
BACKEND = """
import numpy as np
import triton_python_backend_utils as utils

class TritonPythonModel:
    def initialize(self, args):
        weights = np.load(args["model_repository"] + "/" + args["model_version"] + "/weights.npz")
        self.weight, self.bias = weights["weight"], weights["bias"]

    def execute(self, requests):
        images = [utils.get_input_tensor_by_name(request, "pixels").as_numpy() for request in requests]
        features = np.concatenate([each.mean((2, 3)) for each in images])
        logits = np.split(features @ self.weight + self.bias, np.cumsum([len(each) for each in images])[:-1])
        return [utils.InferenceResponse([utils.Tensor("logits", each.astype(np.float32))]) for each in logits]
"""


def environment() -> Path | None:
    """Return the environment's folder, where there is one."""
    folder = Path(os.environ.get(ENVIRONMENT, ""))
    return folder if (folder / "bin" / "python").is_file() and next(folder.glob(f"lib/*/{SERVER}"), None) else None


SERVER = "site-packages/pytriton/tritonserver/bin/tritonserver"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def tritonserver(environment: Path, repository: Path, *, log: Path, seconds: float = 90) -> Iterator[tuple[int, int]]:
    """Run tritonserver on a model repository and yield its HTTP and gRPC ports once it is ready."""
    binary = next(environment.glob(f"lib/*/{SERVER}"))
    root, site = binary.parents[1], binary.parents[3]
    python = next(environment.glob("lib/*")).name.removeprefix("python")
    stub = root / "backends" / "python" / "triton_python_backend_stub"
    if not stub.exists():
        shutil.copy2(root / "python_backend_stubs" / python / stub.name, stub)
    libraries = subprocess.run(
        [environment / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    http, rpc = free_ports(2)
    command = [binary, f"--model-repository={repository}", f"--backend-directory={root / 'backends'}"]
    command += ["--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={rpc}"]
    command += ["--allow-metrics=false", "--disable-auto-complete-config"]
    variables = {
        **os.environ,
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{libraries}",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output)
        try:
            until = time.monotonic() + seconds
            while not _ready(http):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"tritonserver is not ready: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.2)
            yield http, rpc
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server by SIGTERM, or by SIGKILL where it does not end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ready(port: int, certificate: Path | None = None) -> bool:
    scheme, context = "http", None
    if certificate is not None:
        scheme, context = "https", ssl.create_default_context(cafile=str(certificate))
    try:
        with urllib.request.urlopen(
            f"{scheme}://127.0.0.1:{port}/v2/health/ready", timeout=2, context=context
        ) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _ports(log: Path) -> tuple[int, int] | None:
    """Return the ports on which a server says that it is ready; None until it does."""
    for line in log.read_text(errors="replace").splitlines(keepends=True):
        if line.startswith("{") and line.endswith("\n"):
            told = json.loads(line)
            if told["event"] == "ready":
                return told["http_port"], told["grpc_port"]
    return None


@contextmanager
def our_server(
    *arguments: str,
    log: Path,
    seconds: float = 60,
    certificate: Path | None = None,
    command: tuple[str, ...] = (sys.executable, "-W", "error", "-m", "genaf_sdk.export.serve"),
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[tuple[int, int, subprocess.Popen[bytes]]]:
    """Run the server and yield its HTTP and gRPC port and the process, once it is ready.

    It takes two free ports itself: one that is found free before may be another's by then.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *arguments, "--http-port", "0", "--grpc-port", "0"],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
        )
        try:
            until = time.monotonic() + seconds
            while (ports := _ports(log)) is None or not _ready(ports[0], certificate):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the server is not ready: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.05)
            yield *ports, process
        finally:
            _end(process)
