"""Attacks side by side find what they find one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from training import TinyEncoder, tiny_model

from genaf_sdk import HardenConfig, evaluate
from genaf_sdk.data import DataSplits
from genaf_sdk.errors import RunStoppedError
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.evaluation.workers import MOST_PIXELS, Own, StoppedWorkError, Workers, done
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.report.robustness import RobustnessReport

ATTACKS = ("advencoder-per:steps=3,noise_maps=2", "uapgd:steps=6", "cluster-uap:steps=3,goals=3",
           "cluster-patch:steps=3,scout_steps=1,goals=2",
           "encoder-patch:steps=4,scout_steps=1,grid=2",
           "label-uap:steps=6", "patch-uap:steps=4,scout_steps=1,grid=2", "feature-pgd:steps=3", "pgd:steps=4",
           "patch:steps=4,scout_steps=1", "pap-base:steps=2")  # fmt: skip


@pytest.fixture
def config(quick_config: HardenConfig) -> EvaluationConfig:
    return replace(quick_config.evaluation, attacks=ATTACKS, curve=(4 / 255,), sample_wise_samples=20, patch_samples=10)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def evaluated(data: DataSplits, config: EvaluationConfig, encoder: nn.Module) -> RobustnessReport:
    model, baseline = tiny_model(encoder), tiny_model(TinyEncoder())
    return evaluate(model, data, encoder=PixelEncoder(TinyEncoder()), baseline=baseline, config=config)


def test_two_workers_find_what_one_finds(
    striped: DataSplits, config: EvaluationConfig, tiny_encoder: TinyEncoder
) -> None:
    alone = evaluated(striped, config, tiny_encoder)
    torch.set_num_threads(2)
    try:
        beside = evaluated(striped, config, tiny_encoder)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert [replace(score, seconds=0.0) for score in alone.scores] == [
        replace(score, seconds=0.0) for score in beside.scores
    ]
    assert (alone.curve, alone.failures, beside.failures) == (beside.curve, [], [])
    assert [check.name for check in alone.checks][-1] == "A large patch succeeds"
    assert alone.checks == beside.checks
    assert list(alone.perturbations) == list(beside.perturbations)
    for name, found in alone.perturbations.items():
        assert torch.equal(found.values, beside.perturbations[name].values), name


@pytest.mark.usefixtures("two_threads")
def test_pieces_run_side_by_side_on_copies_of_their_own(tiny_encoder: TinyEncoder) -> None:
    meet = threading.Barrier(2, timeout=20)

    def piece(own: Own) -> nn.Module:
        meet.wait()
        assert own(tiny_encoder) is own(tiny_encoder)
        return own(tiny_encoder)

    tiny_encoder.train()
    with Workers.suited([tiny_encoder], 100) as workers:
        copies = {future.result() for future in [workers.submit(piece), workers.submit(piece)]}
    assert len(copies | {tiny_encoder}) == 3
    assert tiny_encoder.training
    assert all(parameter.requires_grad for parameter in tiny_encoder.parameters())
    assert not any(made.training or any(p.requires_grad for p in made.parameters()) for made in copies)


@pytest.mark.usefixtures("two_threads")
def test_one_at_a_time_where_images_are_large_or_a_model_cannot_be_copied(tiny_encoder: TinyEncoder) -> None:
    class Bound(nn.Module):
        def __deepcopy__(self, memo: object) -> Bound:
            raise TypeError("holds a session")

    assert Workers.suited([tiny_encoder], 100).count == 2
    assert Workers.suited([tiny_encoder], MOST_PIXELS + 1).count == 1
    assert Workers.suited([tiny_encoder, Bound()], 100).count == 1
    with Workers() as workers:
        assert workers.submit(lambda own: own(tiny_encoder)).result() is tiny_encoder


@pytest.mark.usefixtures("two_threads")
def test_who_stops_does_not_wait_for_what_is_under_way(tiny_encoder: TinyEncoder) -> None:
    started = threading.Event()

    def endless(own: Own) -> Tensor:
        while True:
            started.set()
            own(tiny_encoder)(torch.zeros(1, 3, 16, 16))
            time.sleep(0.01)

    workers = Workers.suited([tiny_encoder], 100)
    future = workers.submit(endless)
    assert started.wait(20)
    workers.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert isinstance(future.exception(), StoppedWorkError)


@pytest.mark.usefixtures("two_threads")
def test_an_interrupt_while_pieces_end_leaves_torch_its_threads(
    tiny_encoder: TinyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook goes on after it."""
    workers, plain = Workers.suited([tiny_encoder], 100, with_caller=True), ThreadPoolExecutor.shutdown

    def shutdown(pool: ThreadPoolExecutor, **options: bool) -> None:
        plain(pool, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)
    assert torch.get_num_threads() == 1
    with pytest.raises(KeyboardInterrupt), workers:
        pass
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_stop_from_the_caller_ends_the_evaluation(
    striped: DataSplits, config: EvaluationConfig, tiny_encoder: TinyEncoder
) -> None:
    def stop(text: str) -> None:
        if text.startswith("adaptive"):
            raise RunStoppedError("SIGTERM")

    with pytest.raises(RunStoppedError):
        evaluate(tiny_model(tiny_encoder), striped, config=config, on_attack=stop)


def test_what_fails_is_told_where_the_result_is_asked_for() -> None:
    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        done(fail).result()
    assert done(lambda: 3).result() == 3
