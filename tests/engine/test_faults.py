"""What can go wrong within a step or at its edges: each fault is caused, or put where torch would report it."""

from __future__ import annotations

import copy
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from launching import finish, start
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from training import cpu_run, fine_tune, tiny_model

from genaf_sdk import HardenConfig, harden
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.data.images import Reader
from genaf_sdk.engine import batches
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.checkpoints import Checkpoint, open_checkpoints
from genaf_sdk.engine.faults import SERIOUS_EPOCHS, all_finite, require_discerning
from genaf_sdk.engine.fitting import Fitting
from genaf_sdk.engine.machine import MachineConfig
from genaf_sdk.engine.processes import ALONE
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.stage import Losses, Outputs
from genaf_sdk.engine.train import train as train_stage
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.errors import ConfigError, OutputError, TrainingError
from genaf_sdk.methods import FineTuning, LinearProbe
from genaf_sdk.methods.lab import Lab

GIVE_UP = 60.0
"""Seconds after which a process whose peer died has ended; docs/scaling.md states it."""


def train(encoder: nn.Module, data: DataSplits, run: Run | None = None) -> list[dict[str, Tensor]]:
    """Train the head for an epoch and return the gradients of every step."""
    model = tiny_model(encoder)
    steps: list[dict[str, Tensor]] = []

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = {name: w.grad.clone() for name, w in model.head.named_parameters() if w.grad is not None}
        if any(weight is next(model.head.parameters()) for weight in optimizer.param_groups[0]["params"]):
            steps.append(gradients)

    handle = register_optimizer_step_pre_hook(keep)
    try:
        fine_tune(LinearProbe().with_(schedule={"epochs": 1, "batch_size": 32}), run or cpu_run(), model, data)
    finally:
        handle.remove()
    return steps


def limit_memory(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    original = FeaturesAndLogits.forward

    def forward(self: FeaturesAndLogits, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if len(pixels) > images:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, pixels)

    monkeypatch.setattr(FeaturesAndLogits, "forward", forward)


def test_out_of_memory_cuts_the_batch_and_keeps_its_gradient(
    tiny_encoder: nn.Module,
    striped: DataSplits,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = train(copy.deepcopy(tiny_encoder), striped)
    limit_memory(monkeypatch, 10)
    run = cpu_run()
    cut = train(copy.deepcopy(tiny_encoder), striped, run)
    assert run.machine.micro_batch_size == 8, "for the stages after this one"
    assert [record.message for record in caplog.records if "Out of memory" in record.message] == [
        f"Out of memory: each batch is now cut into {count} micro-batches whose gradients are added up. Batch norm "
        "sees one micro-batch at a time."
        for count in (2, 4)
    ]
    for name, gradient in whole[0].items():
        torch.testing.assert_close(cut[0][name], gradient, rtol=1e-4, atol=1e-6)


def test_too_little_memory_for_pairs_ends_the_run(
    tiny_encoder: nn.Module, striped: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 0)
    with pytest.raises(TrainingError, match="Out of memory with a micro-batch of 2 images"):
        train(tiny_encoder, striped)


class Deadly:
    """A reader that kills the worker it runs in, as the kernel does where memory runs out."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __call__(self, indices: Sequence[int]) -> Tensor:
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.reader(indices)

    def identities(self, indices: Sequence[int]) -> list[bytes] | None:
        return self.reader.identities(indices)


def test_a_loader_worker_that_dies_ends_the_run_and_says_so(
    tiny_encoder: nn.Module, striped: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "loader_options", lambda *_: {"num_workers": 1})
    images = LabeledImages(striped.train.labels, Deadly(striped.train.reader), on_disk=True)
    with pytest.raises(TrainingError, match="A data-loading worker died"):
        train(tiny_encoder, replace(striped, train=images))


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path: Path) -> None:
    """The limit on file sizes makes the kernel refuse the write, as a full disk does."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    checkpoints = open_checkpoints(tmp_path, {}, ALONE, resume=False)
    tensors = {"x": torch.zeros(100_000)}
    checkpoints.save("stage 1", Checkpoint(1, tensors, {}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot be written.*resume=True"):
            checkpoints.save("stage 1", Checkpoint(2, tensors, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "checkpoints" / "stage-1").iterdir()] == ["00000001"]
    latest = checkpoints.latest("stage 1")
    assert latest is not None
    assert latest.step == 1


def test_an_output_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path, {}, ALONE, resume=False)
    (tmp_path / "checkpoints" / "run.json").unlink()
    (tmp_path / "checkpoints").rmdir()
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        checkpoints.save("stage 1", Checkpoint(1, {"x": torch.zeros(2)}, {}))


@pytest.mark.multiprocess
def test_a_process_whose_peer_dies_ends_with_an_error() -> None:
    first, second = start(Path(__file__).with_name("endless.py"), count=2)
    assert second.stdout is not None
    for line in second.stdout:
        if "trained" in line:
            break
    second.kill()
    died = time.monotonic()
    (printed,) = finish([first], timeout=GIVE_UP)
    second.wait()
    second.stdout.close()
    assert time.monotonic() - died < GIVE_UP
    assert first.returncode not in (0, None)
    assert "TrainingError: Process 0 of 2 lost contact with another process" in printed
    assert "resume=True" in printed


def test_an_accelerator_that_accumulates_gradients_is_refused(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    with pytest.raises(ConfigError, match="accumulates the gradients of 4 batches"):
        harden(tiny_encoder, striped, quick_config, evaluate=False, progress=False, accelerator=accelerator)


def fp16_scaler(scale: float) -> torch.amp.GradScaler:
    """Return a scaler as accelerate has it on a GPU, whose scale doubles after every step that is taken."""
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1)


def test_encoder_and_head_take_their_steps_under_the_same_loss_scale(
    tiny_encoder: nn.Module, striped: DataSplits
) -> None:
    found: list[dict[str, Tensor]] = []
    for scaler in (None, fp16_scaler(16.0)):
        run, model = cpu_run(), tiny_model(copy.deepcopy(tiny_encoder))
        run.accelerator.scaler = scaler
        schedule = {"epochs": 1, "batch_size": 32, "encoder_learning_rate": 1e-3}
        fine_tune(FineTuning().with_(schedule=schedule), run, model, striped)
        found.append(model.state_dict())
    assert run.accelerator.scaler is not None
    assert run.accelerator.scaler.get_scale() == 16.0 * 2**3
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-5, atol=1e-6, msg=name)


class Loud(FineTuning):
    """Has a loss whose gradient overflows under the largest scale there is."""

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        return Losses(1e4 * super().losses(outputs, batch).rows)


def test_gradients_that_overflow_in_fp16_lower_the_scale_where_steps_may_be_skipped(
    tiny_encoder: nn.Module, striped: DataSplits, caplog: pytest.LogCaptureFixture
) -> None:
    run, model = cpu_run(machine=MachineConfig(non_finite="skip")), tiny_model(tiny_encoder)
    run.accelerator.scaler = fp16_scaler(2.0**127)
    before = model.head.state_dict()["0.weight"].clone()
    fine_tune(
        Loud().with_(schedule={"epochs": 8, "batch_size": 32, "encoder_learning_rate": 1e-4}), run, model, striped
    )
    assert run.accelerator.scaler.get_scale() < 2.0**127
    assert not torch.equal(model.head.state_dict()["0.weight"], before)
    assert "was skipped" not in caplog.text


class Kinked(FineTuning):
    """Has a finite loss and a gradient of NaN."""

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        rows = super().losses(outputs, batch).rows
        return Losses(rows + torch.sqrt(0 * rows))


def test_steps_are_skipped_for_their_gradient_alone_and_no_more_than_a_tenth(
    tiny_encoder: nn.Module, striped: DataSplits
) -> None:
    run, model = cpu_run(machine=MachineConfig(non_finite="skip")), tiny_model(tiny_encoder)
    before = copy.deepcopy(model.state_dict())
    schedule = {"epochs": 1, "batch_size": 32, "encoder_learning_rate": 1e-3}
    with pytest.raises(TrainingError, match=r"2 of 2 steps of stage 1 .*a tenth of all steps"):
        fine_tune(Kinked().with_(schedule=schedule), run, model, striped)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_stage_that_trains_nothing_says_so(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    model, run = tiny_model(tiny_encoder), cpu_run()
    everything = frozenset(name for name, _ in model.named_parameters())
    lab = Lab(run, model, striped, everything)
    with pytest.raises(TrainingError, match=r"stage 1 trains no parameter at all.*frozen"):
        train_stage(run, model, striped, lab.stage("stage 1", FineTuning()))


def test_an_accelerator_of_ones_own_forgets_a_training_that_failed(
    tiny_encoder: nn.Module, striped: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TrainingError("It failed.")

    monkeypatch.setattr("genaf_sdk.engine.fitting.Fitting.training_step", fail)
    run = cpu_run()
    with pytest.raises(TrainingError, match="It failed"):
        train(tiny_encoder, striped, run)
    assert run.accelerator._models == run.accelerator._optimizers == []


def test_two_trainings_that_end_at_once_are_both_forgotten(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    """The second ends in another thread, while the first looks at what the accelerator has prepared."""
    run, fittings = cpu_run(), []
    for name in ("first", "second"):
        model = tiny_model(copy.deepcopy(tiny_encoder))
        stage = Lab(run, model, striped).stage(name, FineTuning())
        fittings.append(Fitting(run, FeaturesAndLogits(model), model, striped, stage))
    first, second = fittings
    other = threading.Thread(target=second.release)

    class Interrupted(list[object]):
        def __iter__(self) -> Iterator[object]:
            seen = [*super().__iter__()]
            if threading.current_thread() is not other:
                other.start()
                other.join(0.3)
            return iter(seen)

    run.accelerator._models = Interrupted(run.accelerator._models)
    first.release()
    other.join()
    assert run.accelerator._models == run.accelerator._optimizers == []


def test_buffers_without_a_value_are_finite() -> None:
    assert all_finite([torch.empty(0), torch.ones(2)])
    assert not all_finite([torch.empty(0), torch.tensor(float("nan"))])


class Stuck(nn.Module):
    """Logits that favor class 1, whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 1.0, 0.0]))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.weight.expand(len(pixels), 3)


def test_a_model_that_knows_one_class_is_an_error() -> None:
    images = LabeledImages.in_memory(torch.rand(6, 3, 8, 8), torch.arange(6) % 3)
    with pytest.raises(TrainingError, match="puts all 6 validation images into class 1"):
        require_discerning(Stuck(), "hardened", images, SERIOUS_EPOCHS)
    require_discerning(Stuck(), "hardened", images, SERIOUS_EPOCHS - 1)
    require_discerning(Stuck(), "hardened", LabeledImages.in_memory(torch.rand(6, 3, 8, 8), torch.ones(6).long()), 20)
