from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import emulated
import pytest

from genaf_sdk import cells

SCRIPT = Path(__file__).with_name("on_a_device.py")


@pytest.mark.skipif(not emulated.is_possible(), reason="needs c++ and the headers of a torch of today")
def test_a_device_apart_gives_what_the_processor_gives(tmp_path: Path) -> None:
    """No GPU is needed to see that no operation gets tensors of two devices, nor float64, and where attacks run."""
    try:
        library = emulated.compiled(tmp_path)
    except RuntimeError as error:
        if emulated.VERSION == emulated.WRITTEN_FOR:
            raise
        pytest.skip(f"the emulated device is not of this torch: {error}")
    command = [sys.executable, str(SCRIPT), str(library), str(tmp_path)]
    path = os.pathsep.join(map(str, (SCRIPT.parent, SCRIPT.parents[1], SCRIPT.parents[2])))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    processor, device = json.loads((tmp_path / "found.json").read_text())
    parts = "harden", "compare", "verify", "evaluate", "attack"
    assert processor.pop("devices") == {part: ["cpu"] for part in parts}
    assert device.pop("devices") == {part: ["emulated"] for part in parts}
    assert set(device["encoder"]) == {"cpu"}, "the caller's is where it was"
    assert device.pop("losses") == pytest.approx(processor.pop("losses"), rel=1e-4)
    assert not device["failures"]
    assert device == processor


def test_processes_share_the_devices_out(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    monkeypatch.setattr("torch.accelerator.set_device_index", chosen.append)
    monkeypatch.setattr(cells, "_end_with_the_parent", lambda: None)
    with cells.local_processes(2) as pool:
        assert pool is not None
        for _ in range(3):
            cells._begin(*pool._initargs)
    assert chosen == [0, 1, 0]
