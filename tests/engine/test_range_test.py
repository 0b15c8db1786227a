from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from training import cpu_run, fine_tune, tiny_model

from genaf_sdk import harden
from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.fitting import Fitting
from genaf_sdk.engine.modules import CurrentBatch, synchronized_layers
from genaf_sdk.engine.range_test import (
    HEAD_STEPS,
    HIGHEST,
    LOWEST,
    MARGIN,
    has_risen,
    range_test,
    running_means,
)
from genaf_sdk.engine.run import RangeTest, Run
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.errors import TrainingError
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods import GenAF, LinearProbe, Method
from genaf_sdk.methods.lab import Lab

METHOD = GenAF().with_(schedule={"epochs": 4, "batch_size": 32}, adaptability={"epochs": 0})


@contextmanager
def begun(run: Run, model: HardenedModel, data: DataSplits, method: Method) -> Iterator[tuple[Fitting, CurrentBatch]]:
    stage = next(iter(method.stages(Lab(run, model, data))))
    both = FeaturesAndLogits(model)
    with synchronized_layers(both, run.processes, sync_batch_norm=True) as current:
        fitting = Fitting(run, both, model, data, stage)
        yield fitting, current
        fitting.release()


def test_the_ramp_leaves_everything_as_it_was(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    model = tiny_model(tiny_encoder)
    with begun(cpu_run(), model, striped, METHOD) as (fitting, current):
        for batch in fitting.batches():
            fitting.training_step(batch, current)
        before = copy.deepcopy(fitting.here())
        range_test(fitting, current)
        after = fitting.here()
    assert any(name.startswith("adversary.") for name in after.tensors)
    assert before.tensors.keys() == after.tensors.keys()
    assert all(torch.equal(value, after.tensors[name]) for name, value in before.tensors.items())
    assert (before.step, before.metadata) == (after.step, after.metadata)


class Magnified(nn.Module):
    """An encoder that computes with a thousand times the weights that it has, and so takes steps as much longer."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.div_(1000.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        magnified = {name: 1000.0 * weight for name, weight in self.encoder.named_parameters()}
        features: torch.Tensor = torch.func.functional_call(self.encoder, magnified, (x,))
        return features


def test_the_rate_follows_the_scale_of_the_weights(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    found = []
    for encoder in (tiny_encoder, Magnified(copy.deepcopy(tiny_encoder))):
        with begun(cpu_run(), tiny_model(encoder), striped, METHOD) as (fitting, current):
            found.append(range_test(fitting, current))
    plain, magnified = found
    assert magnified.chosen < plain.chosen / 10
    assert magnified.chosen == pytest.approx(magnified.rates[-1] / MARGIN)


def test_a_stage_uses_what_was_found(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    run = cpu_run()
    model = tiny_model(tiny_encoder)
    fine_tune(METHOD, run, model, striped)
    found = run.range_tests["stage 1"]
    assert len(found.rates) == len(found.losses) > 1
    assert found.rates[0] == pytest.approx(LOWEST)
    assert found.rates[-1] <= HIGHEST * 1.0001
    assert RangeTest(**found.to_dict()) == found
    assert [record["epoch"] for record in run.history] == [1, 2, 3, 4]


def test_a_rate_that_is_set_is_not_looked_for(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    run = cpu_run()
    fine_tune(METHOD.with_(schedule={"encoder_learning_rate": 1e-3}), run, tiny_model(tiny_encoder), striped)
    assert run.range_tests == {}


def test_an_encoder_that_is_not_trained_needs_no_rate(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    run = cpu_run()
    fine_tune(LinearProbe().with_(schedule={"epochs": 1}), run, tiny_model(tiny_encoder), striped)
    assert run.range_tests == {}


def test_running_means_of_a_constant_are_that_constant() -> None:
    assert running_means([2.0] * 5) == pytest.approx([2.0] * 5)
    assert running_means([]) == []


def test_the_range_ends_where_the_loss_rises_and_no_sooner() -> None:
    falling = [2.0 - 0.05 * step for step in range(HEAD_STEPS + 8)]
    assert not has_risen([9.0] * HEAD_STEPS)
    assert not any(has_risen(falling[:count]) for count in range(1, len(falling) + 1))
    assert not has_risen([*falling, falling[-1] + 0.3])
    assert has_risen([*falling, 5.0])


class Blind(nn.Module):
    """An encoder whose features have been lost: the same for every image, whatever its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = 0.0 * self.conv(x).mean(dim=(2, 3))
        return features


def test_a_model_of_one_class_is_an_error(striped: DataSplits) -> None:
    config = HardenConfig(method=METHOD.with_(schedule={"epochs": 5}))
    with pytest.raises(TrainingError, match=r"all 30 validation images into class \d.*encoder_learning_rate"):
        harden(Blind(), striped, config, evaluate=False, progress=False, preflight=False)


def test_settings_say_auto(quick_config: HardenConfig) -> None:
    schedule = quick_config.method.schedule.with_(encoder_learning_rate="auto")
    assert type(schedule).from_dict(schedule.to_dict()) == schedule
