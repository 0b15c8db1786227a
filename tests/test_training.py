"""Both classifiers of a run, trained side by side: as one after the other, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.tracking import GeneralTracker
from torch import Tensor, nn
from training import TinyEncoder, cpu_run, tiny_model

from genaf_sdk import HardenConfig, HardenResult, harden
from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.label_uap import LabelUAP
from genaf_sdk.data import DataSplits
from genaf_sdk.engine import fitting
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.modules import draws_from_torch
from genaf_sdk.engine.tracking import METRICS_FILE, Metrics
from genaf_sdk.engine.train import train
from genaf_sdk.errors import RunStoppedError, TrainingError
from genaf_sdk.methods import FineTuning
from genaf_sdk.methods.lab import Lab

Step = Callable[..., None]


@pytest.fixture
def short(quick_config: HardenConfig) -> HardenConfig:
    attacks = (
        "advencoder-per:steps=3,noise_maps=2",
        "uapgd:steps=6",
        "label-uap:steps=6",
        "feature-pgd:steps=2",
        "pgd:steps=2",
    )
    return quick_config.with_(
        baseline={"epochs": 3},
        method={"schedule": {"epochs": 4}, "adaptability": {"epochs": 0}},
        evaluation={"attacks": attacks, "checks": False, "curve": (4 / 255,)},
    )


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def run(striped: DataSplits, short: HardenConfig) -> Callable[..., HardenResult]:
    def started(folder: Path | None = None, **options: Any) -> HardenResult:
        torch.manual_seed(0)
        return harden(TinyEncoder(), striped, short, output_dir=folder, progress=False, preflight=False, **options)

    return started


def timeless(result: HardenResult) -> tuple[Any, ...]:
    report = result.report
    assert report is not None
    history = [{name: value for name, value in record.items() if name != "seconds"} for record in result.history]
    found = {name: made.values.tolist() for name, made in report.perturbations.items()}
    return history, [replace(score, seconds=0.0) for score in report.scores], report.curve, report.failures, found


def weights(model: nn.Module | None) -> dict[str, Tensor]:
    assert model is not None
    return model.state_dict()


def same(first: HardenResult, second: HardenResult) -> bool:
    pairs = [(first.model, second.model), (first.undefended, second.undefended)]
    return all(torch.equal(value, weights(other)[name]) for one, other in pairs for name, value in weights(one).items())


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, Callable[[], object]], list[str]]:
    """Have something done before a step of a stage; every step notes its thread."""

    def patch(stage: str, step: int, work: Callable[[], object]) -> list[str]:
        threads: list[str] = []
        plain = fitting.Fitting.training_step

        def stepping(self: fitting.Fitting, batch: Batch, *arguments: Any) -> None:
            threads.append(f"{self.stage.name} in {threading.current_thread().name}")
            if self.stage.name == stage and self.done == step:
                work()
            plain(self, batch, *arguments)

        monkeypatch.setattr(fitting.Fitting, "training_step", stepping)
        return threads

    return patch


def test_side_by_side_ends_in_the_weights_and_figures_of_one_after_the_other(
    run: Callable[..., HardenResult], before_step: Callable[..., list[str]]
) -> None:
    alone = run()
    torch.set_num_threads(2)
    try:
        threads = before_step("", 0, int)
        beside = run()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert {line.split(" in ")[0] for line in threads if line.endswith("MainThread")} == {"stage 1"}
    assert any(line.startswith("undefended in attack") for line in threads)
    assert same(alone, beside)
    assert timeless(alone) == timeless(beside)
    assert list(beside.seconds) == ["undefended", "stage 1", "evaluation"]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_evaluation_that_was_killed_goes_on(
    threads: int, run: Callable[..., HardenResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Side by side, attacks on the undefended classifier are over before the hardened one is trained."""
    crafted, turns = list[str](), threading.Lock()

    def counting(plain: Callable[..., Any], fails_at: int = -1) -> Callable[..., Any]:
        def craft(attack: Any, *arguments: Any, **options: Any) -> Any:
            with turns:
                crafted.append(attack.name)
            if attack.name == "label-uap" and crafted.count("label-uap") == fails_at:
                raise KilledError
            return plain(attack, *arguments, **options)

        return craft

    tries, labeled = EncoderAttack.tries, LabelUAP.__call__
    monkeypatch.setattr(EncoderAttack, "tries", counting(tries))
    monkeypatch.setattr(LabelUAP, "__call__", counting(labeled))
    undisturbed = run()
    total = len(crafted)
    crafted.clear()
    torch.set_num_threads(threads)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(LabelUAP, "__call__", counting(labeled, fails_at=2))
            with pytest.raises(KilledError):
                run(tmp_path)
        done = len(list(tmp_path.glob("checkpoints/attacks/*/complete.json")))
        for path in tmp_path.glob("checkpoints/attacks/*/complete.json"):
            about = json.loads(path.read_text())
            path.write_text(json.dumps({**about, "ended": about["began"] + 100}))
        crafted.clear()
        resumed = run(tmp_path, resume=True)
    finally:
        torch.set_num_threads(1)
    assert done >= 6  # transferred and adaptive, by two attacks and on two models
    assert len(crafted) == total - done
    assert 100 < resumed.seconds["evaluation"] < 200, "what was spared counts, and once where attacks were side by side"
    assert timeless(undisturbed) == timeless(resumed)
    assert not (tmp_path / "checkpoints" / "attacks").exists()


class KilledError(BaseException):
    """Ends a run as abruptly as an exception can."""


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("stage", ["undefended", "stage 1"])
def test_a_training_that_fails_ends_the_other_one_and_both_go_on_from_there(
    stage: str, run: Callable[..., HardenResult], before_step: Callable[..., list[str]], tmp_path: Path
) -> None:
    undisturbed = run()

    def fail() -> None:
        if not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise TrainingError("It failed.")

    before_step(stage, 5, fail)
    with pytest.raises(TrainingError, match="It failed"):
        run(tmp_path / "run")
    resumed = run(tmp_path / "run", resume=True)
    assert same(undisturbed, resumed)
    assert timeless(undisturbed) == timeless(resumed)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("stage", ["undefended", "stage 1"])
def test_sigterm_saves_both(
    stage: str, run: Callable[..., HardenResult], before_step: Callable[..., list[str]], tmp_path: Path
) -> None:
    undisturbed, killed = run(), []

    def kill() -> None:
        if not killed:
            killed.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    before_step(stage, 4, kill)
    with pytest.raises(RunStoppedError, match="resume=True"):
        run(tmp_path)
    assert same(undisturbed, run(tmp_path, resume=True))


class Listener(GeneralTracker):
    name = "listener"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def tracker(self) -> Any:
        return self

    @property
    def stages(self) -> list[str]:
        return [name.split("/")[0] for _, values in self.told for name in values if name.endswith("/loss")]

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.told.append((step, values))


@pytest.mark.usefixtures("two_threads")
def test_trackers_are_told_by_the_thread_that_began(run: Callable[..., HardenResult]) -> None:
    listener = Listener()
    run(log_with=listener)
    assert [step for step, _ in listener.told] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert sorted(listener.stages) == ["stage 1"] * 4 + ["undefended"] * 3


@pytest.mark.usefixtures("two_threads")
def test_trackers_are_told_of_all_that_is_saved_where_a_run_is_stopped(
    run: Callable[..., HardenResult],
    before_step: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that goes on does not tell it again."""
    listener, plain, ended = Listener(), Metrics.epoch, threading.Event()

    def epoch(metrics: Metrics, *arguments: Any) -> None:
        plain(metrics, *arguments)
        ended.set()

    def kill() -> None:
        assert ended.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Metrics, "epoch", epoch)
    before_step("stage 1", 1, kill)
    with pytest.raises(RunStoppedError):
        run(tmp_path, log_with=listener)
    saved = [json.loads(line)["stage"] for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert listener.stages == saved
    assert "undefended" in saved


def test_each_record_is_told_once_however_the_threads_take_turns(
    striped: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one thread writes the checkpoint of its epoch, another one ends an epoch, too."""
    run, told, writing, go_on = cpu_run(), list[tuple[str, int]](), threading.Event(), threading.Event()
    run.metrics.accelerator, run.accelerator.trackers = run.accelerator, [object()]  # somebody listens
    plain = fitting.Fitting.save

    def save(self: fitting.Fitting) -> None:
        if self.stage.name == "slow":
            writing.set()
            assert go_on.wait(60)
        plain(self)

    def train_as(name: str) -> None:
        model, own = tiny_model(TinyEncoder()), run.beside()
        method = FineTuning().with_(schedule={"epochs": 1, "encoder_learning_rate": 1e-3})
        train(own, model, striped, Lab(own, model, striped).stage(name, method))

    monkeypatch.setattr(fitting.Fitting, "save", save)
    monkeypatch.setattr(run.metrics, "_log", lambda values, step: told.append((next(iter(values)).split("/")[0], step)))
    slow = threading.Thread(target=train_as, args=("slow",))
    slow.start()
    assert writing.wait(60)
    train_as("quick")
    go_on.set()
    slow.join()
    assert told == [("quick", 1), ("slow", 2)]
    assert [record["stage"] for record in run.history] == ["slow", "quick"]


class Chancy(TinyEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.1, self.training)


@pytest.mark.usefixtures("two_threads")
def test_one_after_the_other_where_random_numbers_of_the_process_are_drawn(
    striped: DataSplits, short: HardenConfig, before_step: Callable[..., list[str]]
) -> None:
    threads = before_step("", 0, int)
    for encoder, config in (
        (Chancy(), short),
        (TinyEncoder(), short.with_(method={"schedule": {"augmentation": "flip"}})),
    ):
        harden(encoder, striped, config, progress=False, preflight=False)
    assert all(line.endswith("MainThread") for line in threads)


class Transposed(nn.Module):
    """Drops on another axis than the rows, as layers on (tokens, rows, features) do."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(x.T).T
        return dropped


def test_plain_dropout_is_no_draw_as_its_masks_are_a_function_of_the_step(tiny_encoder: TinyEncoder) -> None:
    images = torch.zeros(7, 3, 16, 16)
    assert not draws_from_torch(nn.Sequential(tiny_encoder, nn.Dropout(0.5)), images)
    chancy, state = Chancy(), torch.get_rng_state()
    assert draws_from_torch(chancy, images)
    assert draws_from_torch(nn.Sequential(tiny_encoder, Transposed()), images)
    assert torch.equal(state, torch.get_rng_state())
