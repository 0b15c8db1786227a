from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, DistributedType
from launching import finish, start
from safetensors.torch import load_file
from torch import Tensor, nn
from training import tiny_model

from genaf_sdk.engine.processes import Processes
from genaf_sdk.engine.train import leave_out_unused
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.errors import ConfigError

SCRIPT = Path(__file__).with_name("first_step.py")


def trained(folder: Path, preset: str, count: int, *numbers: int) -> dict[str, Tensor]:
    output = folder / f"{'-'.join(map(str, (preset, count, *numbers)))}.safetensors"
    processes = start(SCRIPT, preset, str(output), *map(str, numbers or (1,)), count=count)
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
@pytest.mark.parametrize("count", [1, 2])
def test_micro_batches_have_the_loss_and_the_gradients_of_the_whole_batch(count: int, tmp_path: Path) -> None:
    """The batch crosses whole in one micro-batch of 33 images, then in seven of at most five a process."""
    whole, cut = trained(tmp_path, "default", 1, 1, 33), trained(tmp_path, "default", count, 1, 5)
    assert "history.genetic" in whole
    for name, expected in whole.items():
        if not name.startswith("weights."):
            torch.testing.assert_close(cut[name], expected, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.multiprocess
def test_accuracies_after_training_agree(tmp_path: Path) -> None:
    alone, together = (trained(tmp_path, "default", count, 20) for count in (1, 2))
    for name in ("history.train_accuracy", "history.validation_accuracy"):
        assert abs(float(alone[name] - together[name])) <= 0.1


@pytest.mark.multiprocess
def test_harden_in_two_processes_gives_both_the_same_model_and_writes_it_once(tmp_path: Path) -> None:
    for options in ((), ("resume",)):
        processes = start(SCRIPT.with_name("whole_run.py"), str(tmp_path), *options, count=2)
        printed = finish(processes)
        assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
        assert (tmp_path / "told-0").read_text() == (tmp_path / "told-1").read_text()
    metadata = json.loads((tmp_path / "checkpoints" / "stage-1" / "00000009" / "metadata.json").read_text())
    assert metadata["processes"] == 2
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.multiprocess
def test_what_one_process_fails_of_ends_all_with_the_same_error_and_none_waits(tmp_path: Path) -> None:
    """After every error the processes are still in step: they train, and have the same statistics in the end."""
    processes = start(SCRIPT.with_name("failing_run.py"), str(tmp_path), count=2)
    printed = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    first, second = (json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert len(first) == 13
    for case, text in first.items():
        if "its own" in (text, second[case]):  # an error of torch or Python stays what it is, and the other hears of it
            assert "2 failed: " in text + second[case], case
        else:
            assert text == second[case], case
    assert "No space left" in first["checkpoint"]
    assert "in use by process" in first["locked"]
    assert "cannot be read as JSON" in first["whole"]


def test_the_processors_of_a_machine_are_shared_by_its_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 processes on four machines, eight read their images beside one another."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert Processes(0, 32).neighbors == 32
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert Processes(0, 32).neighbors == 8


def test_no_gradient_is_waited_for_that_never_comes(tiny_encoder: nn.Module) -> None:
    tiny_encoder.register_parameter("passed_over", nn.Parameter(torch.ones(3)))
    both = FeaturesAndLogits(tiny_model(tiny_encoder))
    leave_out_unused(both, torch.rand(2, 3, 16, 16))
    left_out = [name for name, parameter in both.named_parameters() if not parameter.requires_grad]
    assert left_out == ["encoder.backbone.passed_over"]


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM])
def test_a_model_that_is_shared_out_otherwise_than_by_fsdp2_is_refused(
    kind: DistributedType, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(type(accelerator), "distributed_type", kind)
    with pytest.raises(ConfigError, match="shares the model out"):
        Processes.of(accelerator)
