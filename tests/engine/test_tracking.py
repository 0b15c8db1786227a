from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from torch import nn

from genaf_sdk import HardenConfig, harden
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.tracking import METRICS_FILE, require_trackers
from genaf_sdk.errors import ConfigError, TrainingError


class Listener(GeneralTracker):
    name = "listener"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}
        self.told: list[tuple[int | None, dict[str, Any]]] = []
        self.ended = 0

    @property
    def tracker(self) -> Listener:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.ended += 1


@pytest.fixture
def short(quick_config: HardenConfig) -> HardenConfig:
    return quick_config.with_(baseline={"epochs": 1}, method={"schedule": {"epochs": 2}, "adaptability": {"epochs": 0}})


def test_trackers_and_the_file_hear_of_every_epoch_and_score(
    tiny_encoder: nn.Module, striped: DataSplits, short: HardenConfig, tmp_path: Path
) -> None:
    listener = Listener()
    result = harden(tiny_encoder, striped, short, output_dir=tmp_path, progress=False, log_with=listener)
    assert result.report is not None
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert lines == [*result.history, *({"stage": "evaluation", **row} for row in result.report.to_dict()["scores"])]
    assert [line["stage"] for line in lines[:3]] == ["undefended", "stage 1", "stage 1"]
    assert METRICS_FILE not in json.loads((tmp_path / "checksums.json").read_text())["sha256"], "no part of the bundle"

    assert listener.settings["method.schedule.epochs"] == 2
    assert [step for step, _ in listener.told] == [1, 2, 3, 3]
    assert listener.told[1][1]["stage 1/loss"] == result.history[1]["loss"]
    assert listener.told[-1][1]["hardened/adaptive/uapgd"] == result.report.accuracy("adaptive")
    assert listener.ended == 1


def test_tensorboard_finds_the_figures(
    tiny_encoder: nn.Module, striped: DataSplits, short: HardenConfig, tmp_path: Path
) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    harden(tiny_encoder, striped, short, output_dir=tmp_path, progress=False, evaluate=False, log_with="tensorboard")
    found = event_accumulator.EventAccumulator(str(tmp_path / "genaf-sdk"))
    found.Reload()
    assert [event.step for event in found.Scalars("stage 1/loss")] == [1, 2]


def test_trackers_are_ended_where_a_run_fails(
    tiny_encoder: nn.Module,
    striped: DataSplits,
    short: HardenConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Unable(Listener):
        def finish(self) -> None:
            raise OSError("no connection")

    def failing(*_: object) -> None:
        raise TrainingError("It failed.")

    listener = Listener()
    monkeypatch.setattr("genaf_sdk.pipeline.train", failing)
    with pytest.raises(TrainingError, match="It failed"):
        harden(tiny_encoder, striped, short, progress=False, evaluate=False, log_with=[Unable(), listener])
    assert listener.ended == 1
    assert "The tracker 'listener' was not ended: OSError: no connection" in caplog.text


def test_an_accelerator_of_ones_own_keeps_its_trackers(
    tiny_encoder: nn.Module, striped: DataSplits, short: HardenConfig
) -> None:
    listener = Listener()
    accelerator = Accelerator(cpu=True, log_with=listener)
    harden(tiny_encoder, striped, short, progress=False, evaluate=False, accelerator=accelerator)
    assert len(listener.told) == 2
    assert listener.ended == 0, "its owner ends it"


def test_a_tracker_that_cannot_work_is_refused_before_training(
    tiny_encoder: nn.Module, striped: DataSplits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"tensorbord.*tensorboard"):
        harden(tiny_encoder, striped, log_with="tensorbord", output_dir=tmp_path)
    with pytest.raises(ConfigError, match="give log_with to your Accelerator"):
        harden(tiny_encoder, striped, log_with="tensorboard", accelerator=Accelerator(cpu=True))
    monkeypatch.setattr("genaf_sdk.engine.tracking.get_available_trackers", list)
    with pytest.raises(ConfigError, match="pip install wandb"):
        require_trackers(["wandb"], tmp_path)
    monkeypatch.setattr("genaf_sdk.engine.tracking.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(ConfigError, match="give an output_dir"):
        require_trackers("tensorboard", None)
    assert require_trackers(None, None) == []
