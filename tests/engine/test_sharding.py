"""FSDP2: the same training with every weight shared out between two processes on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from launching import finish, start
from safetensors.torch import load_file

pytest.importorskip("timm", reason="the smoke test's ViT is timm's")
SCRIPT = Path(__file__).with_name("sharded_run.py")


def run(folder: Path, *options: str, count: int) -> None:
    folder.mkdir(exist_ok=True)
    processes = start(SCRIPT, str(folder), *options, count=count)
    printed = finish(processes)
    assert [process.returncode for process in processes] == [0] * count, "\n".join(printed)
    told = {(folder / f"told-{rank}").read_text() for rank in range(count)}
    assert len(told) == 1, "all processes end with the same whole model"


@pytest.mark.multiprocess
def test_sharing_the_weights_out_changes_nothing(tmp_path: Path) -> None:
    """Gradients of the first step equal one process's; so do, within noise, the accuracies of all epochs."""
    run(tmp_path / "alone", count=1)
    run(tmp_path / "shared", count=2)
    alone, shared = (load_file(tmp_path / name / "first.safetensors") for name in ("alone", "shared"))
    assert alone.keys() == shared.keys()
    assert len(alone) > 25
    for name, expected in alone.items():
        if name not in ("loss", "accuracy"):
            torch.testing.assert_close(shared[name], expected, rtol=1e-5, atol=1e-5, msg=name)
    assert (alone["accuracy"] - shared["accuracy"]).abs().max() <= 0.1


@pytest.mark.multiprocess
def test_a_shared_run_goes_on_with_activation_checkpointing_and_bf16(tmp_path: Path) -> None:
    """The resumed run ends in the weights of the undisturbed one."""
    options = ("checkpointing", "bf16")
    run(tmp_path, *options, count=2)
    undisturbed = (tmp_path / "told-0").read_text()
    lose_the_end(tmp_path, "lost-once")
    run(tmp_path, *options, "resume", count=2)
    assert (tmp_path / "told-0").read_text() == undisturbed
    lose_the_end(tmp_path, "lost-twice")
    run(tmp_path, "bf16", "resume", count=1)  # a process alone goes on from what two have saved


def lose_the_end(folder: Path, name: str) -> None:
    """Take away the last checkpoint of stage 1 and all that came after."""
    stages = folder / "checkpoints"
    lost = [max((stages / "stage-1").iterdir()), *(stages / "stage-2").iterdir(), stages / "sensitivity.json"]
    for path in lost:
        path.rename(folder / f"{name}-{path.parent.name}-{path.name}")
