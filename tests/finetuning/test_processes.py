from __future__ import annotations

from pathlib import Path

import pytest
import torch
from launching import finish, start
from safetensors.torch import load_file
from torch import Tensor

SCRIPT = Path(__file__).with_name("first_step.py")


def trained(folder: Path, preset: str, count: int, steps: int = 1) -> dict[str, Tensor]:
    output = folder / f"{preset}-{count}.safetensors"
    processes = start(SCRIPT, preset, str(output), str(steps), count=count)
    printed = finish(processes)
    assert [process.returncode for process in processes] == [0] * count, "\n".join(printed)
    return load_file(output)


@pytest.mark.multiprocess
@pytest.mark.parametrize(("preset", "count"), [("default", 2), ("default", 4), ("trades", 2), ("mart", 2)])
def test_loss_and_gradients_do_not_depend_on_the_number_of_processes(preset: str, count: int, tmp_path: Path) -> None:
    """33 images in one batch, so that the processes' shares differ in size."""
    alone, together = trained(tmp_path, preset, 1), trained(tmp_path, preset, count)
    assert alone.keys() == together.keys()
    for name, expected in alone.items():
        if not name.startswith("weights."):  # a first step of Adam makes the sign of rounding errors visible
            torch.testing.assert_close(together[name], expected, rtol=1e-5, atol=1e-5, msg=name)
    for name in ("weights.encoder.backbone.norm.running_mean", "weights.encoder.backbone.norm.running_var"):
        torch.testing.assert_close(together[name], alone[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.multiprocess
def test_accuracies_after_training_agree(tmp_path: Path) -> None:
    alone, together = (trained(tmp_path, "default", count, steps=20) for count in (1, 2))
    for name in ("history.train_accuracy", "history.validation_accuracy"):
        assert abs(float(alone[name] - together[name])) <= 0.1
