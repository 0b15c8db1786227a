from __future__ import annotations

import copy
import random
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from training import cpu_run, fine_tune, tiny_model

from genaf_sdk import harden
from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.cost import Spent
from genaf_sdk.engine.machine import MachineConfig
from genaf_sdk.engine.train import train
from genaf_sdk.methods import PGDAT, adaptability
from genaf_sdk.methods.adaptability import Adaptation
from genaf_sdk.methods.guard import Guard, Interpolation, WeightPath, measured_points, select
from genaf_sdk.methods.lab import Lab


def test_only_the_chosen_layers_move_and_normalization_stays(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    model = tiny_model(tiny_encoder)
    method = quick_config.method.with_(schedule={"epochs": 1}, adaptability={"tolerance": 1.0})
    lab = Lab(cpu_run(), model, striped)
    stages = method.stages(lab)
    train(lab.run, model, striped, next(stages))
    before = copy.deepcopy(model.state_dict())
    train(lab.run, model, striped, next(stages))
    assert next(stages, None) is None

    adaptation = lab.findings["adaptation"]
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved <= set(adaptation.layers)
    assert bool(moved) == (adaptation.coefficient > 0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert adaptation.points[0].coefficient == 0.0
    assert adaptation.coefficient in [point.coefficient for point in adaptation.points]
    best = max(point.clean_accuracy for point in adaptation.points)
    kept = next(point for point in adaptation.points if point.coefficient == adaptation.coefficient)
    assert kept.clean_accuracy == best


def test_a_layer_that_the_user_froze_is_trained_by_no_stage(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    model = tiny_model(tiny_encoder)
    frozen = "encoder.backbone.conv1.weight"
    before = model.get_parameter(frozen).requires_grad_(False).detach().clone()
    method = quick_config.method.with_(schedule={"epochs": 1}, adaptability={"redundant_fraction": 1.0})
    lab = Lab(cpu_run(), model, striped, frozenset({frozen}))
    for stage in method.stages(lab):
        train(lab.run, model, striped, stage)
    assert torch.equal(model.get_parameter(frozen), before)
    assert frozen not in lab.findings["sensitivity"]
    assert len(lab.findings["adaptation"].layers) == 4


@pytest.mark.parametrize("probe_epochs", [0, 1])
def test_without_a_layer_to_train_there_is_no_stage_2(
    probe_epochs: int, tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    """A norm alone is trained, and the head's weight is no layer's."""
    adapted = {"schedule": {"epochs": 1}, "adaptability": {"probe_epochs": probe_epochs}}
    config = quick_config.with_(head="cosine", tuning={"train_only": ("norm",)}, method=adapted)
    result = harden(tiny_encoder, striped, config, evaluate=False, progress=False, preflight=False)
    assert result.adaptation == Adaptation([], [], 0.0, adaptability.NO_LAYERS)
    assert [record["stage"] for record in result.history] == ["stage 1"]


def test_what_is_measured_for_stage_2_takes_no_more_memory_than_training(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    """Four images at a time: their two views while stage 1 trains, alone under the attacks and for the sensitivity."""
    model, sizes = tiny_model(tiny_encoder), list[int]()

    def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
        if torch.is_grad_enabled():
            sizes.append(len(inputs[0]))

    model.encoder.register_forward_pre_hook(note)
    method = quick_config.method.with_(schedule={"epochs": 1}, adaptability={"epochs": 1, "probe_epochs": 1})
    run = cpu_run(machine=MachineConfig(micro_batch_size=4))
    fine_tune(method, run, model, striped)
    assert max(sizes) == 8


def test_the_guard_keeps_the_best_point_that_is_as_robust_as_stage_1() -> None:
    points = [
        Interpolation(0.0, 0.90, 0.80, 0.50),
        Interpolation(0.5, 0.93, 0.80, 0.51),
        Interpolation(0.7, 0.94, 0.79, 0.52),
        Interpolation(1.0, 0.95, 0.85, 0.45),
    ]
    assert select(points, 0.0).coefficient == 0.5
    assert select(points, 0.01).coefficient == 0.7
    assert select(points, 0.05).coefficient == 1.0


def test_the_points_that_are_measured_decide_as_all_would() -> None:
    """Few points are attacked, and the choice is that among all of them."""
    generator = random.Random(0)
    coefficients, attacked = [0.0, 0.25, 0.5, 0.75, 1.0], 0
    for _ in range(300):
        every = [Interpolation(at, *(generator.randint(5, 9) / 10 for _ in range(3))) for at in coefficients]
        guard, path = Measured(every), cast("WeightPath", Steps(every))
        tolerance = generator.choice((0.0, 0.1))
        found = measured_points(cast("Guard", guard), path, coefficients, tolerance)
        assert select(found, tolerance) == select(every, tolerance)
        assert found == [point for point in every if point in found]
        attacked += len(found)
    assert attacked < 300 * 2.5


class Steps:
    """A path on which it is known where the model stands."""

    at = WeightPath.at

    def __init__(self, points: list[Interpolation]) -> None:
        self.points = points

    def go_to(self, coefficient: float) -> None:
        Measured.now = next(point for point in self.points if point.coefficient == coefficient)


class Measured:
    """A guard of known accuracies."""

    now: Interpolation

    def __init__(self, points: list[Interpolation]) -> None:
        Measured.now = points[-1]

    def clean(self) -> float:
        return self.now.clean_accuracy

    def universal(self) -> float:
        return self.now.universal_accuracy

    def sample_wise(self) -> float:
        return self.now.sample_wise_accuracy


def test_the_guard_counts_what_the_model_gets_right(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    model = tiny_model(tiny_encoder)
    lab = fine_tune(quick_config.method.with_(adaptability={"epochs": 0}), cpu_run(), model, striped)
    pixels, labels = striped.validation.sample()
    bank = torch.stack([torch.zeros(3, 16, 16), 0.5 - pixels[0]])
    guard = Guard(lab, quick_config.method.adaptability.attack, bank)
    with torch.no_grad():
        right = [float((model((pixels + one).clip(0, 1)).argmax(1) == labels).float().mean()) for one in bank]
    assert guard.clean() == pytest.approx(right[0])
    assert guard.universal() == pytest.approx(min(right)) != pytest.approx(right[0])
    assert guard.sample_wise() < guard.clean()
    in_fours = Guard(lab, guard.attack, bank, at_once=4)
    sent: list[int] = []
    with model.register_forward_pre_hook(lambda _, inputs: sent.append(len(inputs[0]))):
        assert in_fours.universal() == pytest.approx(min(right))
        in_fours.sample_wise()
    assert max(sent) == 4
    assert Guard(lab, guard.attack, None).universal() == 1.0


def test_of_equal_points_the_one_nearest_to_stage_1_is_kept() -> None:
    points = [Interpolation(coefficient, 0.9, 0.8, 0.5) for coefficient in (0.0, 0.5, 1.0)]
    assert select(points, 0.0).coefficient == 0.0


def test_reports_keep_their_keys() -> None:
    content = Adaptation(["a"], [Interpolation(0.5, 0.9, 0.8, 0.7)], 0.5).to_dict()
    assert content == {
        "layers": ["a"],
        "points": [{"share": 0.5, "clean_accuracy": 0.9, "universal_accuracy": 0.8, "sample_wise_accuracy": 0.7}],
        "share": 0.5,
        "skipped": "",
    }


def test_rift_is_pgd_at_and_one_layer_more(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    method = HardenConfig.preset("rift").method.with_(
        schedule={"epochs": 1, "batch_size": 32}, adaptability={"epochs": 1, "interpolations": 1}
    )
    lab = fine_tune(method, cpu_run(), tiny_model(tiny_encoder), striped)
    assert len(lab.findings["adaptation"].layers) == 1
    assert isinstance(method, PGDAT)
    assert (type(method).losses, type(method).views) == (PGDAT.losses, PGDAT.views)
    assert method.against == HardenConfig.preset("pgd-at").method.against


def test_a_probe_that_gains_nothing_is_undone_and_says_so(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attacked(guard: Guard) -> float:
        raise AssertionError("the guard attacks a model that nothing was gained for")

    monkeypatch.setattr(Guard, "clean", lambda guard: 0.9)
    monkeypatch.setattr(Guard, "universal", attacked)
    model = tiny_model(tiny_encoder)
    lab = Lab(cpu_run(), model, striped)
    method = quick_config.method.with_(schedule={"epochs": 1}, adaptability={"probe_epochs": 1})
    stages = method.stages(lab)
    train(lab.run, model, striped, next(stages))
    before = copy.deepcopy(model.state_dict())
    lab.run.earlier["probed layers"] = Spent(100.0, 200.0)
    probe = next(stages)
    assert probe.name == "probe"
    train(lab.run, model, striped, probe)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert next(stages, None) is None
    assert (lab.clock.seconds["probe"] >= 100.0, lab.clock.cpu_seconds["probe"] >= 200.0) == (True, True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert lab.findings["adaptation"].skipped == adaptability.NO_GAIN
    assert "sensitivity" not in lab.findings


@pytest.mark.parametrize(("universal", "stages"), [(0.7, ["stage 1", "probe"]), (0.8, ["stage 1", "probe", "stage 2"])])
def test_stage_2_follows_a_probe_that_the_guard_would_keep(
    universal: float,
    stages: list[str],
    tiny_encoder: nn.Module,
    striped: DataSplits,
    quick_config: HardenConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def go_to(path: WeightPath, coefficient: float) -> None:
        whole(path, coefficient)
        now.update(clean=0.9 + coefficient / 100, universal=universal if coefficient else 0.8)

    now: dict[str, float] = {}
    whole = WeightPath.go_to
    monkeypatch.setattr(WeightPath, "go_to", go_to)
    monkeypatch.setattr(Guard, "clean", lambda guard: now["clean"])
    monkeypatch.setattr(Guard, "universal", lambda guard: now["universal"])
    monkeypatch.setattr(Guard, "sample_wise", lambda guard: 1.0)
    method = quick_config.method.with_(schedule={"epochs": 1}, adaptability={"probe_epochs": 1})
    lab = fine_tune(method, cpu_run(), tiny_model(tiny_encoder), striped)
    assert list(dict.fromkeys(record["stage"] for record in lab.run.history)) == stages
    assert lab.findings["adaptation"].skipped == ("" if "stage 2" in stages else adaptability.NO_KEEPING)


def test_stage_2_learns_at_a_third_of_what_stage_1_found(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    schedule = {"epochs": 1, "encoder_learning_rate": "auto"}
    method = quick_config.method.with_(schedule=schedule, adaptability={"probe_epochs": 1})
    lab = Lab(cpu_run(), tiny_model(tiny_encoder), striped)
    stages = method.stages(lab)
    train(lab.run, lab.model, striped, next(stages))
    probe = next(stages)
    assert probe.schedule.encoder_learning_rate == pytest.approx(lab.run.range_tests["stage 1"].chosen / 3)
    probe.train_mode(lab.model)
    assert [type(module) for module in lab.model.modules() if module.training] == [nn.Dropout], "norms stay as they are"
