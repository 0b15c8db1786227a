"""What works on this machine, found by trying it, and how to fix the rest."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from packaging.requirements import Requirement

from genaf_sdk.errors import GenafError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

Status = Literal["ok", "warn", "fail"]
PACKAGE, PYTHON = "genaf-sdk", (3, 11)
FOR_CHECKOUTS = ("dev", "docs")
"""Extras that nobody has a use for without the repository."""
SIZE = 64  # of the matrices that devices multiply
COLORS: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: What it is.
        status: ``ok``: works, or is not needed here; ``warn``: the package runs, but not as it could; ``fail``:
            something that the package needs does not work.
        detail: What was found.
        remedy: The command or setting that changes it; empty where there is nothing to do.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Try everything and return what was found, in a fixed order; nothing is changed and nothing is downloaded."""
    findings: list[Finding] = []
    for look in LOOKS:
        try:
            findings += look()
        except Exception as error:  # what breaks one look must not hide the others
            name = look.__name__.replace("_", " ").strip()
            findings.append(Finding(name, "fail", f"{type(error).__name__}: {error}", "report this with the detail"))
    return findings


def findings_table(findings: list[Finding]) -> Table:
    """Return the findings as a table for a terminal; their text is never read as markup."""
    from rich.table import Table
    from rich.text import Text

    from genaf_sdk.terminal import printable

    table = Table("", "what", "found", "to do", title_justify="left", show_lines=False)
    for finding in findings:
        mark = Text(finding.status, style=COLORS[finding.status])
        table.add_row(mark, *(Text(printable(text)) for text in (finding.name, finding.detail, finding.remedy)))
    return table


def _python() -> list[Finding]:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < PYTHON:
        return [Finding("Python", "fail", detail, f"use Python {PYTHON[0]}.{PYTHON[1]} or newer")]
    return [Finding("Python", "ok", detail)]


def _requirements() -> list[Finding]:
    """Compare what the package's own metadata asks for with what is installed; optional extras one line each."""
    extras = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    missing: dict[str, list[str]] = {"": []}
    missing |= {extra: [] for extra in extras if extra not in FOR_CHECKOUTS or is_checkout()}
    for text in importlib.metadata.requires(PACKAGE) or []:
        requirement = Requirement(text)
        for extra, lacking in missing.items():
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            core = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and (not extra or not core) and requirement.name != PACKAGE and not _satisfied(requirement):
                named = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
                lacking.append(f"{requirement.name}{named}{requirement.specifier}")
    core_missing = missing.pop("")
    findings = [
        # The requirements themselves: an index need not have this package, which may come from a checkout or a wheel.
        Finding("requirements", "fail", f"missing or too old: {', '.join(core_missing)}", _install(core_missing))
        if core_missing
        else Finding("requirements", "ok", f"{PACKAGE} {importlib.metadata.version(PACKAGE)} has all it needs")
    ]
    for extra, lacking in missing.items():
        detail = f"optional, not installed: {', '.join(lacking)}" if lacking else "installed"
        remedy = f"pip install '{PACKAGE}[{extra}]'" if lacking else ""  # as messages ask: asks no index for PACKAGE
        findings.append(Finding(f"extra {extra}", "ok", detail, remedy))
    return findings


def is_checkout() -> bool:
    """Return whether the package lies in its repository, whose tests and documentation have extras of their own."""
    return (Path(__file__).parents[1] / "pyproject.toml").is_file()


def _install(requirements: list[str]) -> str:
    return "pip install -U " + " ".join(f"'{requirement}'" for requirement in requirements)


def _satisfied(requirement: Requirement) -> bool:
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(found, prereleases=True)


def _torchvision() -> list[Finding]:
    """Check torchvision against the torch that it was built for, by its metadata and by a compiled operator."""
    versions = f"torchvision {importlib.metadata.version('torchvision')}, torch {importlib.metadata.version('torch')}"
    remedy = "pip install -U torch torchvision, both from the same index"
    for text in importlib.metadata.requires("torchvision") or []:
        requirement = Requirement(text)
        if requirement.name == "torch" and not _satisfied(requirement):
            return [
                Finding("torchvision", "fail", f"{versions}: it was built for torch{requirement.specifier}", remedy)
            ]
    try:
        from torchvision.ops import nms

        kept = nms(torch.tensor([[0.0, 0, 1, 1], [0.0, 0, 1, 1]]), torch.tensor([0.2, 0.9]), 0.5).tolist()
    except (ImportError, RuntimeError) as error:
        return [Finding("torchvision", "fail", f"{versions}: {_one_line(error)}", remedy)]
    return [Finding("torchvision", "ok" if kept == [1] else "fail", versions, "" if kept == [1] else remedy)]


def devices() -> list[torch.device]:
    """Return the CPU and every accelerator that torch says it has."""
    found = [torch.device("cpu")]
    found += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    found += [torch.device("mps")] if torch.backends.mps.is_available() else []
    return found + [torch.device("xpu", index) for index in range(torch.xpu.device_count())]


def _devices() -> list[Finding]:
    findings = []
    for device in devices():
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        findings.append(_multiplies(device, torch.float32, f"torch {device}", name, "fail"))
        findings.append(_multiplies(device, torch.bfloat16, f"torch {device} bf16", "", "warn"))
    if has_nvidia_gpu() and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        remedy = "install torch's CUDA build (pytorch.org/get-started), and check nvidia-smi"
        findings.append(
            Finding("torch cuda", "warn", f"an NVIDIA driver is here, but torch, {built}, finds no GPU", remedy)
        )
    return findings


def _multiplies(device: torch.device, dtype: torch.dtype, name: str, detail: str, otherwise: Status) -> Finding:
    """Multiply two matrices on the device and compare with the CPU in float64."""
    remedies: dict[Status, str] = {
        "fail": "update the driver, or hide the device (CUDA_VISIBLE_DEVICES='')",
        "warn": "use mixed_precision='no'",
    }
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
    try:
        product = (a.to(device, dtype) @ b.to(device, dtype)).cpu().double()  # Apple's GPUs have no float64
    except (RuntimeError, TypeError) as error:  # the latter where a device lacks the type
        return Finding(name, otherwise, _one_line(error), remedies[otherwise])
    error_of = float((product - a.double() @ b.double()).abs().max()) / SIZE**0.5
    tolerance = 8 * torch.finfo(dtype).eps if dtype is torch.bfloat16 else 1e-2  # TF32 may be on
    if not error_of <= tolerance:
        return Finding(name, otherwise, f"matrix product is wrong by {error_of:.2g}", remedies[otherwise])
    return Finding(name, "ok", ", ".join(part for part in (detail, "multiplies matrices") if part))


def has_nvidia_gpu() -> bool:
    """Return whether an NVIDIA driver or its tool is here, whatever torch makes of it."""
    return torch.cuda.is_available() or Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def _onnxruntime() -> list[Finding]:
    """Make a session on a tiny model with every provider that a server would use, and look at what really loaded."""
    from genaf_sdk.export.serve import providers
    from genaf_sdk.export.serve.errors import ProviderError

    try:
        providers.require_one_onnxruntime()
    except ProviderError as error:
        remedy = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
        return [Finding("onnxruntime", "fail", _one_line(error), remedy)]
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        model = _tiny_model(Path(folder) / "tiny.onnx")
        for provider in reversed(providers.PROVIDERS):
            name = f"onnxruntime {provider}"
            try:
                session, _ = providers.open_session(model, provider=provider, max_batch=1)
                right = bool((session.run(None, {"x": _tiny_input()})[0] == 3.0).all())
            except Exception as error:  # onnxruntime's own classes share no public base
                if provider != "cpu" and not has_nvidia_gpu():
                    findings.append(Finding(name, "ok", "does not load: no NVIDIA GPU on this machine"))
                    continue
                status: Status = "fail" if provider == "cpu" else "warn"
                findings.append(Finding(name, status, _one_line(error), providers.REMEDIES[provider]))
                continue
            remedy = "" if right else providers.REMEDIES[provider]
            findings.append(
                Finding(name, "ok" if right else "fail", "runs a convolution" if right else "wrong result", remedy)
            )
    return findings


def _cuda() -> list[Finding]:
    """Hold the CUDA that torch and onnxruntime were built for against what the driver can run."""
    if not has_nvidia_gpu():
        return []
    built = {"torch": torch.version.cuda or "", "onnxruntime": onnxruntime_cuda()}
    driver = driver_cuda()
    detail = ", ".join(f"{name} is built for CUDA {version}" for name, version in built.items() if version)
    if not detail or not driver:
        return [Finding("CUDA", "ok", detail or "neither torch nor onnxruntime is built for CUDA")]
    detail += f"; the driver runs CUDA up to {driver}"
    newer = {name: version for name, version in built.items() if version and _major(version) > _major(driver)}
    if not newer:
        return [Finding("CUDA", "ok", detail)]
    remedies = {
        "torch": f"install a torch that is built for CUDA {_major(driver)} (pytorch.org/get-started)",
        "onnxruntime": "serve with --provider cpu",
    }
    remedy = "update the NVIDIA driver; or " + ", and ".join(remedies[name] for name in newer)
    return [Finding("CUDA", "warn", detail, remedy)]


def onnxruntime_cuda() -> str:
    """Return the CUDA that the installed onnxruntime was built for, such as ``13.0``; empty for none."""
    try:
        from onnxruntime.capi.build_and_package_info import cuda_version
    except ImportError:  # a build for the CPU alone
        return ""
    return str(cuda_version)


def driver_cuda() -> str:
    """Return the newest CUDA that the driver runs, such as ``12.8``; empty where it cannot be asked."""
    number = ctypes.c_int(0)
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        failed = library.cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return ""
    return "" if failed else f"{number.value // 1000}.{number.value % 1000 // 10}"


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _tiny_model(path: Path) -> Path:
    """Write a model of one convolution that adds up three channels."""
    import onnx
    from onnx import TensorProto, helper

    shape = [1, 3, 4, 4]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 3, 1, 1], [1.0, 1.0, 1.0])
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, 4])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _tiny_input() -> object:
    return torch.ones(1, 3, 4, 4).numpy()


def _bundled_encoder() -> list[Finding]:
    from genaf_sdk.encoders import load_encoder

    try:
        width = load_encoder("bundled:simclr-cifar10").feature_dim((32, 32))
    except (GenafError, OSError) as error:
        remedy = f"install {PACKAGE} again, from where it came"
        return [Finding("bundled encoder", "fail", _one_line(error), remedy)]
    return [Finding("bundled encoder", "ok", f"simclr-cifar10 gives {width} features")]


def _caches() -> list[Finding]:
    from huggingface_hub import constants

    folders = {
        "Hub cache": (Path(constants.HF_HUB_CACHE), "HF_HOME"),
        "torch cache": (Path(torch.hub.get_dir()), "TORCH_HOME"),
    }
    return [_cache(name, folder, variable) for name, (folder, variable) in folders.items()]


def _cache(name: str, folder: Path, variable: str) -> Finding:
    """Try to write into a cache folder, or, where it is not there yet, into the nearest folder above it."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        remedy = f"set {variable} to a folder that can be written"
        return Finding(name, "warn", f"{folder}: {error.strerror or error}", remedy)
    offline = ", HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") == "1" and variable == "HF_HOME" else ""
    return Finding(name, "ok", f"{folder}, {free:.0f} GiB free{offline}")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."


LOOKS: tuple[Callable[[], list[Finding]], ...] = (
    *(_python, _requirements, _torchvision, _devices, _cuda, _onnxruntime, _bundled_encoder, _caches),
)
