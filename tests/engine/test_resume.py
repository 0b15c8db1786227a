from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk import HardenConfig, harden
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.data.images import Reader
from genaf_sdk.encoders import load_encoder
from genaf_sdk.engine import fitting
from genaf_sdk.engine.checkpoints import Checkpoint, open_checkpoints
from genaf_sdk.engine.processes import ALONE
from genaf_sdk.errors import ConfigError, OutputError, RunStoppedError, TrainingError
from genaf_sdk.result import HardenResult

CONFIG = HardenConfig().with_(
    method={
        "schedule": {"epochs": 3, "batch_size": 24, "encoder_learning_rate": 1e-2},
        "adaptability": {"probe_epochs": 0, "epochs": 2, "batch_size": 24, "interpolations": 2},
    }
)


class Killed(BaseException):
    """Ends a run as abruptly as an exception can."""


@pytest.fixture
def run(tiny_encoder: nn.Module, striped: DataSplits) -> Callable[..., HardenResult]:
    config = CONFIG.with_(method={"adaptability": {"sensitivity": {"steps": 1, "samples": 24}}})

    def start(folder: Path | None, *, settings: HardenConfig = config, **options: bool) -> HardenResult:
        quiet = {"evaluate": False, "progress": False, "preflight": False}  # of which trial steps would be counted
        return harden(copy.deepcopy(tiny_encoder), striped, settings, output_dir=folder, **quiet, **options)

    return start


def before_step(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], None]) -> None:
    """Have ``do`` called before the ``number``-th step of the run, counted from 0 over all stages."""
    steps, original = iter(range(10_000)), fitting.Fitting.training_step

    def training_step(*arguments: object) -> None:
        if next(steps) == number:
            do()
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fitting.Fitting, "training_step", training_step)


def die() -> None:
    raise Killed


def weights(result: HardenResult) -> dict[str, Tensor]:
    return result.model.state_dict()


def same(first: HardenResult, second: HardenResult) -> bool:
    return all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


@pytest.mark.parametrize("step", [0, 6, 11, 12, 15, 19])
def test_a_run_that_was_killed_ends_in_the_same_weights(
    step: int, run: Callable[..., HardenResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve steps of stage 1, eight of stage 2."""
    undisturbed = run(None)
    with monkeypatch.context() as patch:
        before_step(patch, step, die)
        with pytest.raises(Killed):
            run(tmp_path)
    resumed = run(tmp_path, resume=True)
    assert same(undisturbed, resumed)
    assert undisturbed.adaptation == resumed.adaptation
    without_time = [[{k: v for k, v in r.items() if k != "seconds"} for r in x.history] for x in (undisturbed, resumed)]
    assert without_time[0] == without_time[1]


@pytest.mark.parametrize("step", [5, 14])
def test_sigterm_finishes_the_step_and_saves_it(
    step: int, run: Callable[..., HardenResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        before_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(RunStoppedError, match="resume=True"):
            run(tmp_path)
    assert signal.getsignal(signal.SIGTERM) == handler
    stage, done = ("stage-1", step + 1) if step < 12 else ("stage-2", step - 11)
    assert (tmp_path / "checkpoints" / stage / f"{done:08d}").is_dir()
    assert same(run(None), run(tmp_path, resume=True))


def test_the_time_of_a_run_that_went_on_is_that_of_all_its_processes(
    run: Callable[..., HardenResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        before_step(patch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(RunStoppedError):
            run(tmp_path)
    metadata = tmp_path / "checkpoints" / "stage-1" / "00000010" / "metadata.json"
    noted = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(noted | {"seconds": noted["seconds"] + 1000}))
    resumed = run(tmp_path, resume=True)
    assert resumed.seconds["stage 1"] > 1000
    assert sum(record["seconds"] for record in resumed.history if record["stage"] == "stage 1") > 1000
    assert resumed.seconds["stage 2"] < 1000


def test_a_run_without_a_folder_promises_nothing(
    run: Callable[..., HardenResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    before_step(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(RunStoppedError, match=r"nothing was saved.*output_dir") as ended:
        run(None)
    assert "resume" not in str(ended.value)


def test_sigterm_at_the_end_of_an_epoch_writes_its_checkpoint_once(
    run: Callable[..., HardenResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one would take the place of the first, which a full disk would then leave empty."""
    written: list[int] = []
    plain = fitting.Fitting.save

    def save(stage: fitting.Fitting) -> None:
        written.append(stage.done)
        plain(stage)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fitting, "save", save)
        with pytest.raises(RunStoppedError):
            run(tmp_path)
    assert written == [4]
    assert same(run(None), run(tmp_path, resume=True))


def test_a_run_goes_on_with_the_same_weights_frozen(
    run: Callable[..., HardenResult], tmp_path: Path, tiny_encoder: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        before_step(patch, 5, die)
        with pytest.raises(Killed):
            run(tmp_path)
    tiny_encoder.get_submodule("conv1").requires_grad_(False)
    with pytest.raises(ConfigError, match=r"something else: frozen was not there and is .*conv1\.bias"):
        run(tmp_path, resume=True)


def test_a_run_goes_on_with_the_same_normalization(
    tmp_path: Path, tiny_encoder: nn.Module, striped: DataSplits
) -> None:
    quick = CONFIG.with_(method={"schedule": {"epochs": 1}, "adaptability": {"epochs": 0}})

    def start(std: float, *, resume: bool) -> None:
        encoder = load_encoder(tiny_encoder, mean=0.5, std=std)
        quiet = {"evaluate": False, "progress": False, "preflight": False}
        harden(encoder, striped, quick, output_dir=tmp_path, resume=resume, **quiet)

    start(0.25, resume=False)
    start(0.25, resume=True)
    with pytest.raises(ConfigError, match=r"something else: encoder was "):
        start(0.5, resume=True)


def test_a_damaged_checkpoint_is_passed_over_and_that_is_said(
    run: Callable[..., HardenResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        before_step(patch, 10, die)
        with pytest.raises(Killed):
            run(tmp_path)
    newest = tmp_path / "checkpoints" / "stage-1" / "00000008" / "tensors.safetensors"
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(content)
    resumed = run(tmp_path, resume=True)
    assert "00000008 is damaged: its checksum does not match. The one before it is used" in caplog.text
    assert same(run(None), resumed)


def test_other_settings_or_data_are_refused_with_their_difference(
    run: Callable[..., HardenResult], tmp_path: Path, tiny_encoder: nn.Module, striped: DataSplits
) -> None:
    quick = CONFIG.with_(method={"schedule": {"epochs": 1}, "adaptability": {"epochs": 0}})
    run(tmp_path, settings=quick)
    with pytest.raises(ConfigError, match=r"something else: seed was 0 and is 1\. .*overwrite"):
        run(tmp_path, settings=replace(quick, seed=1), resume=True)
    run(tmp_path, settings=quick, resume=True)
    swapped = replace(striped, train=striped.validation, validation=striped.train)
    with pytest.raises(ConfigError, match=r"something else: data was "):
        harden(tiny_encoder, swapped, quick, output_dir=tmp_path, evaluate=False, progress=False, resume=True)
    with torch.no_grad():
        tiny_encoder.get_parameter("conv1.bias").add_(1)
    with pytest.raises(ConfigError, match=r"something else: encoder was "):
        run(tmp_path, settings=quick, resume=True)
    with pytest.raises(ConfigError, match="output_dir"):
        run(None, settings=quick, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_files_of_somebody_else_are_refused_and_left_alone(resume: bool, tmp_path: Path) -> None:
    theirs = tmp_path / "checkpoints" / "model.pt"
    theirs.parent.mkdir()
    theirs.write_text("weeks of work", encoding="utf-8")
    with pytest.raises(OutputError, match="belong to no run"):
        open_checkpoints(tmp_path, {"a": 1}, ALONE, resume=resume)
    assert theirs.read_text(encoding="utf-8") == "weeks of work"


def test_a_new_run_replaces_a_finished_one_without_being_told(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path, {"a": 1}, ALONE, resume=False)
    checkpoints.save("stage 1", Checkpoint(1, {"w": torch.ones(1)}, {}))
    checkpoints.finish()
    assert open_checkpoints(tmp_path, {"a": 2}, ALONE, resume=False).latest("stage 1") is None


def test_a_new_run_replaces_an_unfinished_one_when_told_even_after_a_kill_while_it_did(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path, {"a": 1}, ALONE, resume=False)
    checkpoints.save("stage 1", Checkpoint(1, {"w": torch.ones(1)}, {}))
    half_removed = tmp_path / ".checkpoints.partial" / "stage-1"
    half_removed.mkdir(parents=True)  # what a kill leaves
    (tmp_path / "checkpoints" / ".run.json.1.partial").touch()
    with pytest.raises(ConfigError, match=r"not finished.*--resume.*--overwrite"):
        open_checkpoints(tmp_path, {"a": 2}, ALONE, resume=False)
    assert checkpoints.latest("stage 1") is not None
    checkpoints = open_checkpoints(tmp_path, {"a": 2}, ALONE, resume=False, overwrite=True)
    assert checkpoints.latest("stage 1") is None
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoints", "run.json"]


def test_a_start_that_was_killed_before_it_wrote_anything_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".run.json.1.partial").touch()
    open_checkpoints(tmp_path, {"a": 1}, ALONE, resume=False)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["run.json"]


def test_only_the_last_checkpoints_are_kept_and_nothing_partial(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path, {"a": 1}, ALONE, resume=False)
    for step in (1, 2, 3):
        checkpoints.save("stage 1", Checkpoint(step, {"x": torch.full((2,), float(step))}, {"note": step}))
    kept = sorted(path.name for path in (tmp_path / "checkpoints" / "stage-1").iterdir())
    assert kept == ["00000002", "00000003"]
    latest = checkpoints.latest("stage 1")
    assert latest is not None
    assert (latest.step, latest.metadata, latest.tensors["x"].tolist()) == (3, {"note": 3}, [3.0, 3.0])


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = open_checkpoints(tmp_path, {}, ALONE, resume=False)
    checkpoints.save("stage 1", Checkpoint(1, {"x": torch.zeros(2)}, {}))

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("genaf_sdk.engine.checkpoints.write_json", refuse)
        with pytest.raises(OutputError, match="No space left"):
            checkpoints.save("stage 1", Checkpoint(2, {"x": torch.zeros(2)}, {}))
    assert [path.name for path in (tmp_path / "checkpoints" / "stage-1").iterdir()] == ["00000001"]


@pytest.mark.parametrize("file", ["metadata.json", "tensors.safetensors"])
def test_a_checkpoint_without_a_file_is_damaged(file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = open_checkpoints(tmp_path, {}, ALONE, resume=False)
    for step in (1, 2):
        checkpoints.save("stage 1", Checkpoint(step, {"x": torch.zeros(2)}, {}))
    (tmp_path / "checkpoints" / "stage-1" / "00000002" / file).unlink()
    latest = checkpoints.latest("stage 1")
    assert latest is not None
    assert latest.step == 1
    assert "00000002" in caplog.text


class Poisoned:
    """A reader whose sixth image is NaN: what a broken file or a transform of one's own may give."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __call__(self, indices: Sequence[int]) -> Tensor:
        pixels = self.reader(indices).clone()
        pixels[[place for place, index in enumerate(indices) if index == 5]] = float("nan")
        return pixels

    def identities(self, indices: Sequence[int]) -> list[bytes] | None:
        return self.reader.identities(indices)


def poison(data: DataSplits) -> DataSplits:
    return replace(data, train=LabeledImages(data.train.labels, Poisoned(data.train.reader)))


def test_nan_in_a_batch_stops_or_is_skipped_as_asked(
    tiny_encoder: nn.Module, striped: DataSplits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = poison(striped)
    quick = CONFIG.with_(method={"schedule": {"epochs": 1}, "adaptability": {"epochs": 0}})
    with pytest.raises(TrainingError, match="The loss of stage 1 is nan at step"):
        harden(tiny_encoder, data, quick, output_dir=tmp_path, evaluate=False, progress=False)
    assert not list((tmp_path / "checkpoints").rglob("*.safetensors"))
    skipping = quick.with_(machine={"non_finite": "skip"})
    model = harden(tiny_encoder, data, skipping, evaluate=False, progress=False).model
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    assert caplog.text.count("was skipped") == 1


def test_nan_in_a_weight_stops_even_where_steps_may_be_skipped(
    run: Callable[..., HardenResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fitting.Fitting.training_step

    def training_step(stage: fitting.Fitting, *arguments: object) -> None:
        if stage.done == 2:
            with torch.no_grad():
                stage.model.get_parameter("head.0.weight")[0, 0] = float("nan")
        original(stage, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fitting.Fitting, "training_step", training_step)
    with pytest.raises(TrainingError, match=r"head\.0\.weight is no longer finite"):
        run(None, settings=CONFIG.with_(machine={"non_finite": "skip"}))


def test_metadata_of_a_checkpoint_are_json(tmp_path: Path, run: Callable[..., HardenResult]) -> None:
    run(tmp_path)
    metadata = json.loads((tmp_path / "checkpoints" / "stage-2" / "00000008" / "metadata.json").read_text())
    assert [record["epoch"] for record in metadata["history"]] == [1, 2]
    assert len(metadata["sha256"]) == 64
