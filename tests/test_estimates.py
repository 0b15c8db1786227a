"""What a run will take: costs that attacks state against passes that are counted, and the parts of the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from training import TinyEncoder, cpu_run, fine_tune, stripes, tiny_model

from genaf_sdk import HardenConfig
from genaf_sdk.attacks.base import EncoderAttack, UniversalModelAttack
from genaf_sdk.attacks.placed_patch import PlacedPatch
from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.attacks.sample_wise import FeatureAttack, SampleWiseAttack
from genaf_sdk.attacks.tried_uap import TriedUAP
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.fitting import Fitting
from genaf_sdk.estimates import (
    MOST,
    SHORTER,
    STEPS,
    free_memory,
    left_of,
    memory_of_a_step,
    seconds_of_a_pass,
    seconds_of_parts,
)
from genaf_sdk.evaluation.cost import (
    FORWARD,
    ON_BASELINE,
    ON_HARDENED,
    ON_PUBLIC,
    Beside,
    ahead_passes,
    evaluation_passes,
    replay_passes,
)
from genaf_sdk.evaluation.evaluate import evaluate
from genaf_sdk.methods.lab import Lab
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.preflight import preflight
from genaf_sdk.preparation import Candidate, new_candidate, resolved

IMAGES = 48
ENCODER = (EncoderAttack, FeatureAttack)


class Counting(nn.Module):
    """Counts the images that cross a module: one each with a gradient, a third without."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.passes = inner, 0.0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += len(images) * (1 if torch.is_grad_enabled() and images.requires_grad else FORWARD)
        return self.inner(images)


UNIVERSAL = [
    "uapgd:steps=24",
    "uapgd:steps=12,goals=0",
    "label-uap:steps=24,goals=3",
    "targeted-uap:steps=20,candidates=2",
    "targeted-uap:steps=12,target=1",
    "ssp:steps=12",
    "patch-uap:steps=8,scout_steps=2,grid=4",
    "encoder-patch:steps=8,scout_steps=2,grid=4",
]
SAMPLE_WISE = [
    "pgd:steps=8", "pgd:steps=4,restarts=2", "apgd-ce:steps=8", "square:queries=30", "patch:steps=6", "feature-pgd"
]  # fmt: skip


@pytest.mark.parametrize("name", [*UNIVERSAL, *SAMPLE_WISE])
def test_an_attack_takes_about_as_many_passes_as_it_states(name: str) -> None:
    attack, model = load_attack(name), tiny_model(TinyEncoder()).eval()
    target = Counting(model.encoder if isinstance(attack, ENCODER) else model)
    pixels, labels = stripes(IMAGES, 0)
    if isinstance(attack, ENCODER):
        attack(target, pixels)
    elif isinstance(attack, (UniversalModelAttack, SampleWiseAttack)):
        labels = model(pixels).argmax(dim=1) if isinstance(attack, SampleWiseAttack) else labels  # all are attacked
        attack(target, pixels, labels)
    stated = attack.passes(IMAGES)
    assert stated > 0
    assert target.passes < 2.5 * stated
    if not isinstance(attack, (SampleWiseAttack, PlacedPatch, TriedUAP)):  # which leave out what is not needed
        assert target.passes > 0.4 * stated


def test_more_attacks_budgets_and_images_take_more(striped: DataSplits) -> None:
    def passes(**changes: object) -> float:
        return evaluation_passes(HardenConfig().evaluation.with_(**changes), striped)

    usual = passes()
    few, more = (passes(attacks=attacks, curve=()) for attacks in (("pgd",), ("pgd", "pgd:steps=50", "uapgd")))
    assert few < more < usual
    assert passes(curve=()) < usual < passes(corruption_samples=60)
    assert passes(test_samples=10) < usual < passes(certificate={"patch": 0.03})


def test_one_model_alone_takes_less(striped: DataSplits) -> None:
    config = HardenConfig().evaluation
    both = evaluation_passes(config, striped)
    alone = [evaluation_passes(config, striped, Beside(public=public, baseline=False)) for public in (True, False)]
    assert alone[1] < alone[0] < both
    assert ahead_passes(config, striped, Beside(public=False, baseline=False)) == 0


@pytest.mark.parametrize("attack", ["uapgd:steps=24", "uapgd:steps=48,goals=0"])
def test_an_evaluation_takes_about_as_many_passes_as_it_is_told(striped: DataSplits, attack: str) -> None:
    counting = Counting(TinyEncoder())
    model = tiny_model(counting).eval()
    config = HardenConfig().evaluation.with_(attacks=(attack,), curve=(4 / 255, 16 / 255), sample_wise_samples=1)
    told = evaluation_passes(config, striped, Beside(public=True, baseline=False))
    evaluate(model, striped, encoder=PixelEncoder(counting).eval(), config=config)
    assert 0.7 * told < counting.passes < 1.3 * told


def test_points_of_the_curve_are_cheap_where_the_table_has_what_they_start_from(striped: DataSplits) -> None:
    def passes(attack: str) -> tuple[float, float]:
        config = HardenConfig().evaluation.with_(attacks=(attack,), surrogate_samples=IMAGES)
        table = evaluation_passes(config.with_(curve=()), striped)
        return table, evaluation_passes(config.with_(curve=(4 / 255, 16 / 255)), striped) - table

    table, points = passes("uapgd")
    assert 0 < 2 * points < table
    table, points = passes("label-uap")
    assert points == 0, "the curve has no attack that was not asked for"


def test_what_will_take_long_is_timed_for_longer(striped: DataSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(passes: float) -> int:
        clock = iter(tenth / 10 for tenth in range(1_000))
        monkeypatch.setattr("genaf_sdk.estimates.time.monotonic", lambda: next(clock))  # every step takes 0.1 s
        model = tiny_model(TinyEncoder())
        assert seconds_of_a_pass(model, striped, passes) * len(striped.train.sample(64)[0]) == pytest.approx(0.1)
        return int(next(clock) * 10) // 2

    assert timed(64) == STEPS
    assert timed(64 * 100) == STEPS
    assert timed(64 * 1_000) == 11  # a hundredth of 100 s, and one to warm up
    assert timed(64 * 100_000) == 1 + 10 * MOST


def test_attacks_ahead_are_those_that_need_no_hardened_model(striped: DataSplits) -> None:
    def both(*attacks: str) -> tuple[float, float]:
        config = HardenConfig().evaluation.with_(attacks=attacks, curve=(), checks=False, test_samples=1)
        whole = evaluation_passes(config, striped) - replay_passes(attacks, config, striped)
        return ahead_passes(config, striped), whole

    for attack, ahead_of_it in (
        ("uapgd", ON_PUBLIC + ON_BASELINE),
        ("label-uap", ON_BASELINE),
        ("feature-pgd", ON_PUBLIC + ON_BASELINE),
        ("pgd", ON_BASELINE),
    ):
        ahead, whole = both(attack)
        assert ahead == pytest.approx(ahead_of_it / (ahead_of_it + ON_HARDENED) * whole)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ((100, 40, 50, 60), (0, 30)),  # all that may come first is done by the time that training ends
        ((100, 40, 80, 60), (0, 40)),  # 20 of it are left, for both threads
        ((100, 130, 80, 60), (30, 70)),  # the other training ends last
    ],
)
def test_side_by_side_leaves_what_does_not_fit_beside_the_training(
    given: tuple[float, float, float, float], left: tuple[float, float]
) -> None:
    assert tuple(left_of(*given).values()) == left


def test_side_by_side_a_run_is_told_to_take_less(
    striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genaf_sdk.estimates.seconds_of", lambda *_: 10.0)
    monkeypatch.setattr("genaf_sdk.estimates.seconds_of_a_pass", lambda *_: 1e-3)
    alone = seconds_of_parts(candidate(striped, quick_config, None))
    torch.set_num_threads(2)
    try:
        beside = seconds_of_parts(candidate(striped, quick_config, None))
    finally:
        torch.set_num_threads(1)
    assert list(beside) == ["stage 1", "stage 2", "attacks"]
    assert beside["attacks"] < alone["attacks"] / 2
    assert sum(beside.values()) < 0.75 * sum(alone.values())


def candidate(data: DataSplits, config: HardenConfig, folder: Path | None, *, evaluate: bool = True) -> Candidate:
    torch.manual_seed(0)
    published = PixelEncoder(TinyEncoder()).eval()
    return new_candidate(published, data, config, Accelerator(cpu=True), folder, evaluate=evaluate)


def test_a_step_takes_the_memory_of_as_many_views_as_its_method_has(
    striped: DataSplits, quick_config: HardenConfig
) -> None:
    taken = {
        method: memory_of_a_step(candidate(striped, resolved(quick_config, method), None), quick_config.machine)
        for method in ("fine-tuning", "pgd-at", "trades", "gen-af")
    }
    assert taken["fine-tuning"] == taken["pgd-at"] < taken["trades"] == taken["gen-af"]


def test_the_memory_of_a_gpu_is_estimated_in_the_precision_that_it_computes_in(
    striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is measured on the processor, where the autocast of a GPU does nothing."""
    given, machine = candidate(striped, quick_config, None), quick_config.machine
    fp32 = memory_of_a_step(given, machine)
    monkeypatch.setattr(Accelerator, "device", torch.device("cuda"))
    monkeypatch.setattr(Accelerator, "autocast", lambda _: torch.autocast("cuda", torch.bfloat16, enabled=False))
    assert memory_of_a_step(given, machine) == fp32
    monkeypatch.setattr(Accelerator, "mixed_precision", "bf16")
    assert memory_of_a_step(given, machine) < 0.8 * fp32


def test_memory_that_torch_keeps_of_freed_tensors_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a step was timed on a GPU, most of its memory is kept: the next one gets it without asking the driver."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (20 * 2**30, 80 * 2**30))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 55 * 2**30)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 5 * 2**30)
    assert free_memory(torch.device("cuda", 0)) == 70 * 2**30


def test_a_step_is_timed_until_the_device_has_done_it(
    striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    step = Fitting.training_step

    def noted(fitting: Fitting, *given: Any) -> None:
        step(fitting, *given)
        done.append("step")

    monkeypatch.setattr(Fitting, "training_step", noted)
    monkeypatch.setattr("genaf_sdk.estimates._wait_for", lambda device: done.append(device.type))
    monkeypatch.setattr("genaf_sdk.estimates.seconds_of_a_pass", lambda *_: 0.0)
    seconds_of_parts(candidate(striped, quick_config, None, evaluate=False))
    assert done == ["step", "cpu"] * (len(done) // 2)
    assert done


def test_stage_2_is_timed_in_micro_batches_where_memory_is_short(
    striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossed: list[int] = []
    original = TinyEncoder.forward

    def forward(encoder: TinyEncoder, images: Tensor) -> Tensor:
        crossed.append(len(images))
        return original(encoder, images)

    short = candidate(striped, quick_config.with_(machine={"micro_batch_size": 4}), None, evaluate=False)
    monkeypatch.setattr(TinyEncoder, "forward", forward)
    assert list(seconds_of_parts(short)) == ["stage 1", "stage 2"]
    assert max(crossed) == 8, "two views of four images"


def test_every_part_of_a_run_has_its_time(striped: DataSplits, quick_config: HardenConfig, tmp_path: Path) -> None:
    parts = seconds_of_parts(candidate(striped, quick_config, tmp_path))
    assert list(parts) == list(SHORTER)
    assert all(seconds > 0 for seconds in parts.values())
    short = quick_config.with_(method={"adaptability": {"epochs": 0}})
    assert list(seconds_of_parts(candidate(striped, short, None, evaluate=False))) == ["stage 1"]


def test_the_time_is_told_with_what_makes_the_longest_part_shorter(
    striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"stage 1": 7260.0, "baseline": 600.0, "attacks": 9000.0}
    monkeypatch.setattr("genaf_sdk.preflight.seconds_of_parts", lambda _: parts)
    (found,) = [f for f in preflight(candidate(striped, quick_config, None)) if f.subject == "time"]
    assert found.level == "note"
    assert found.text == "The run takes about 4.7 h here: stage 1 2.0 h, baseline 10 min, attacks 2.5 h."
    assert found.remedy == SHORTER["attacks"]


def test_where_a_probe_decides_on_stage_2_it_alone_is_told_and_that_is_said(
    striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(cpu_run(), tiny_model(TinyEncoder()), striped)
    probing = quick_config.with_(method={"adaptability": {"probe_epochs": 1}})
    assert 0 < probing.method.later_passes(lab) < quick_config.method.later_passes(lab)
    rift = HardenConfig.preset("rift").method
    assert rift.with_(adaptability={"probe_epochs": 1}).later_passes_may_grow
    assert not rift.later_passes_may_grow
    monkeypatch.setattr("genaf_sdk.preflight.seconds_of_parts", lambda _: {"stage 1": 60.0, "stage 2": 3.0})
    for config, said in ((probing, True), (quick_config, False)):
        (found,) = [f for f in preflight(candidate(striped, config, None)) if f.subject == "time"]
        assert ("Stage 2 takes longer if its probe finds something to gain." in found.text) == said


def test_stage_2_takes_about_as_many_passes_as_it_states(
    striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = 0.0
    original = TinyEncoder.forward

    def forward(encoder: TinyEncoder, images: Tensor) -> Tensor:
        nonlocal counted
        counted += len(images) * (1 if torch.is_grad_enabled() else FORWARD)
        return original(encoder, images)

    def passes(epochs: int) -> float:
        nonlocal counted
        counted = 0.0
        method = quick_config.method.with_(schedule={"epochs": 1}, adaptability={"epochs": epochs})
        fine_tune(method, cpu_run(), tiny_model(TinyEncoder()), striped)
        return counted

    monkeypatch.setattr(TinyEncoder, "forward", forward)
    stated = quick_config.method.later_passes(Lab(cpu_run(), tiny_model(TinyEncoder()), striped))
    assert 0.4 * stated < passes(2) - passes(0) < 2.5 * stated
