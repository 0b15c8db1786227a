from __future__ import annotations

import importlib.metadata
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from genaf_sdk import doctor
from genaf_sdk.doctor import Finding, diagnose, findings_table
from genaf_sdk.errors import EncoderError
from genaf_sdk.export.serve import providers


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose()}


def test_what_this_machine_can_do_is_found(findings: dict[str, Finding]) -> None:
    for name in ("Python", "requirements", "torchvision", "torch cpu", "onnxruntime cpu", "bundled encoder"):
        assert findings[name].status == "ok", findings[name]
    assert findings["onnxruntime cpu"].detail == "runs a convolution"
    assert "multiplies matrices" in findings["torch cpu"].detail
    assert "features" in findings["bundled encoder"].detail
    assert "extra dev" in findings
    assert all(finding.remedy for finding in findings.values() if finding.status != "ok")


def test_a_provider_counts_only_if_it_really_loads(findings: dict[str, Finding]) -> None:
    if not doctor.has_nvidia_gpu():
        assert findings["onnxruntime cuda"].detail == "does not load: no NVIDIA GPU on this machine"


def test_a_provider_that_fails_beside_a_gpu_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("the provider loads here")
    monkeypatch.setattr(doctor, "has_nvidia_gpu", lambda: True)
    found = {finding.name: finding for finding in doctor._onnxruntime()}
    assert found["onnxruntime cuda"].status == "warn"
    assert found["onnxruntime cuda"].remedy == providers.REMEDIES["cuda"]
    assert found["onnxruntime cpu"].status == "ok"
    devices = {finding.name: finding for finding in doctor._devices()}
    assert devices["torch cuda"].status == "warn"


def test_a_driver_too_old_for_a_build_is_told_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(doctor, "onnxruntime_cuda", lambda: "13.0")
    monkeypatch.setattr(doctor, "driver_cuda", lambda: "12.9")
    (finding,) = doctor._cuda()
    assert finding.status == "warn"
    assert finding.detail == (
        "torch is built for CUDA 12.8, onnxruntime is built for CUDA 13.0; the driver runs CUDA up to 12.9"
    )
    assert finding.remedy == "update the NVIDIA driver; or serve with --provider cpu"
    monkeypatch.setattr(doctor, "driver_cuda", lambda: "13.1")
    assert doctor._cuda()[0].status == "ok"
    monkeypatch.setattr(doctor, "has_nvidia_gpu", lambda: False)
    assert doctor._cuda() == []


def test_the_cuda_of_the_installed_onnxruntime_is_known() -> None:
    found = doctor.onnxruntime_cuda()
    assert found == "" or found.split(".")[0].isdigit()
    assert doctor.driver_cuda() == "" or doctor.has_nvidia_gpu()


def test_two_onnxruntimes_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "version", lambda package: "1.20")
    (finding,) = doctor._onnxruntime()
    assert finding.status == "fail"
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in finding.remedy


def test_missing_and_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    asked = [
        "torch>=99",
        "numpy>=1",
        "nowhere>=1",
        'nvidia-ml-py[a]>=99; extra == "energy"',
        'genaf-sdk[energy]; extra == "dev"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda package: asked)
    found = {finding.name: finding for finding in doctor._requirements()}
    assert found["requirements"].status == "fail"
    assert found["requirements"].detail == "missing or too old: torch>=99, nowhere>=1"
    assert found["extra dev"].detail == "installed"
    assert found["requirements"].remedy == "pip install -U 'torch>=99' 'nowhere>=1'"
    assert "nvidia-ml-py[a]>=99" in found["extra energy"].detail
    assert found["extra energy"].remedy == "pip install 'genaf-sdk[energy]'"
    assert real("numpy") in str(importlib.metadata.version("numpy"))


def test_extras_of_the_repository_are_shown_in_a_checkout_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "is_checkout", lambda: False)
    names = {finding.name for finding in doctor._requirements()}
    assert "extra transformers" in names
    assert not names & {"extra dev", "extra docs"}


def test_a_torchvision_for_another_torch_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda package: ["torch==1.0.0"])
    (finding,) = doctor._torchvision()
    assert finding.status == "fail"
    assert "built for torch==1.0.0" in finding.detail


def test_a_device_that_computes_nonsense_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: a * 0 if a.dtype == torch.float32 else a.mm(b))
    found = {finding.name: finding for finding in doctor._devices()}
    assert found["torch cpu"].status == "fail"
    assert "wrong by" in found["torch cpu"].detail
    assert found["torch cpu bf16"].status == "ok"


def test_a_device_that_lacks_a_type_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        raise TypeError(f"{dtype} is not supported on {device}.")

    monkeypatch.setattr(torch.Tensor, "to", refused)
    found = doctor._multiplies(torch.device("cpu"), torch.bfloat16, "torch cpu bf16", "", "warn")
    assert (found.status, found.detail) == ("warn", "torch.bfloat16 is not supported on cpu.")


def test_a_broken_installation_does_not_stop_the_other_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(encoder: str) -> None:
        raise EncoderError("The file is damaged.")

    def crashing() -> list[Finding]:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("genaf_sdk.encoders.load_encoder", broken)
    monkeypatch.setattr(doctor, "LOOKS", (crashing, doctor._bundled_encoder, doctor._python))
    first, second, third = diagnose()
    assert (first.name, first.status, first.detail) == ("crashing", "fail", "ZeroDivisionError: by zero")
    assert (second.status, second.detail) == ("fail", "The file is damaged.")
    assert third.status == "ok"


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = tmp_path / "a" / "b"
    assert doctor._cache("Hub cache", fresh, "HF_HOME").status == "ok"
    assert not fresh.exists(), "looking changes nothing"
    (tmp_path / "a").write_text("a file where a folder should be")
    assert doctor._cache("Hub cache", fresh, "HF_HOME").remedy == "set HF_HOME to a folder that can be written"


def test_the_table_shows_text_as_it_is() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(findings_table([Finding("a [red]b[/]", "warn", "[bold]c", "pip install 'x[y]'")]))
    text = console.export_text()
    assert "a [red]b[/]" in text
    assert "[bold]c" in text
    assert "pip install 'x[y]'" in text
