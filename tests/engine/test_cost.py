from __future__ import annotations

import sys
from pathlib import Path

import pytest

from genaf_sdk.engine import cost
from genaf_sdk.engine.cost import CostMeter, cpu_counters, gpu_counters


def package(powercap: Path, name: str, domain: str, microjoules: int) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{domain}\n")
    (folder / "max_energy_range_uj").write_text("999999999\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_energy_is_added_up_over_packages_and_over_wrapping_counters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = package(tmp_path, "intel-rapl:0", "package-0", 990_000_000)
    second = package(tmp_path, "intel-rapl:1", "package-1", 5_000_000)
    package(tmp_path, "intel-rapl:0:0", "core", 1)  # a part of package-0
    package(tmp_path, "intel-rapl:2", "psys", 1)  # the whole machine, the packages included
    monkeypatch.setattr(cost, "cpu_counters", lambda: cpu_counters(tmp_path))
    with CostMeter() as meter:
        first.write_text("10000000\n")  # wrapped: 20 J later
        second.write_text("7500000\n")
        assert meter.read()["energy"]["cpu"] == {"joules": 22.5}
        second.write_text("8500000\n")
        assert meter.read()["energy"]["cpu"] == {"joules": 23.5}
        resumed = meter.read(went_on=True)["energy"]["cpu"]
        assert resumed["joules"] is None
        assert "resumed" in resumed["reason"]
        second.write_text("gone\n")
        energy = meter.read()["energy"]["cpu"]
        assert energy["joules"] is None
        assert "could not be read any more" in energy["reason"]
    assert not meter._thread.is_alive()


def test_the_reason_is_said_where_energy_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "shows no energy counter" in cpu_counters(tmp_path)[1]

    def refused(self: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    package(tmp_path, "intel-rapl:0", "package-0", 1)
    monkeypatch.setattr(Path, "read_text", refused)
    counters, reason = cpu_counters(tmp_path)
    assert not counters
    assert "may not be read by this user" in reason


def test_a_gpu_without_a_driver_library_costs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_counters() == ([], "the package nvidia-ml-py is not installed")


def test_a_gpu_that_is_not_used_costs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where ``ACCELERATE_USE_CPU`` is set: torch refuses to say what it has never counted."""

    def refused(device: int) -> None:
        raise RuntimeError(f"Invalid device argument {device}: did you call init?")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: False)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", refused)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with CostMeter() as meter:
        assert meter.read()["gpus"] == []


@pytest.mark.skipif(sys.platform == "win32", reason="the peak is not known there")
def test_peak_memory_is_that_of_this_process() -> None:
    with CostMeter() as meter:
        before = meter.read()["peak_memory"]
        held = bytes(64 << 20)
        after = meter.read()["peak_memory"]
    assert 1 << 20 < before <= after
    assert after > len(held)
