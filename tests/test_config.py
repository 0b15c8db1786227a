from __future__ import annotations

import ast
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import genaf_sdk
from genaf_sdk.config import HardenConfig
from genaf_sdk.engine.machine import MachineConfig
from genaf_sdk.engine.schedule import WARM_UP, Schedule
from genaf_sdk.errors import ConfigError
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.methods import MART, PGD, TRADES, GenAF, Mixture, RiFT, presets
from genaf_sdk.preparation import resolved

PACKAGE = Path(genaf_sdk.__file__).parent
PRESETS = sorted(presets())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = HardenConfig.preset(name)
    assert HardenConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_paper_preset_states_the_papers_numbers() -> None:
    method = HardenConfig.preset("paper").method
    assert isinstance(method, GenAF)
    schedule = method.schedule
    assert (schedule.epochs, schedule.batch_size, schedule.decay, schedule.weight_decay) == (
        50,
        256,
        "exponential",
        8e-4,
    )
    assert (schedule.encoder_learning_rate, schedule.head_learning_rate) == (1e-4, 5e-3)
    assert method.against == PGD(epsilon=8 / 255, step_size=2 / 255, steps=10, ramp=0.0)
    assert method.adaptability.redundant_fraction == 0.2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sed": 1}, r"'sed'.*seed"),
        ({"method": {"name": "gen-af", "schedule": {"epoch": 3}}}, r"method\.schedule\.'epoch'.*epochs"),
        ({"method": {"name": "gen-af", "schedule": {"epochs": 2.5}}}, r"method\.schedule\.epochs is 2\.5"),
        ({"method": {"name": "gen-af", "against": {"name": "none of these"}}}, "mixture"),
        ({"method": {"name": "tradez"}}, r"'tradez'.*trades"),
        ({"method": {"epochs": 3}}, r"method\.'epochs'"),
        ({"method": 3}, "JSON object"),
        ({"evaluation": {"attacks": "pgd"}}, "a list"),
        ({"seed": True}, "whole number"),
    ],
)
def test_settings_that_cannot_be_read_are_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HardenConfig.from_dict(content)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PGD(epsilon=0),
        lambda: PGD(epsilon=8),
        lambda: Mixture(sample_wise_share=0.8, patch_share=0.3),
        lambda: Mixture(sample_wise=PGD()),
        lambda: Mixture(bank_size=True),
        lambda: Schedule(batch_size=1),
        lambda: Schedule(epochs=1.5),  # type: ignore[arg-type]
        lambda: Schedule(shift=1.5),  # type: ignore[arg-type]
        lambda: GenAF(adversarial_weight=0, clean_weight=0),
        lambda: EvaluationConfig(attacks=()),
        lambda: EvaluationConfig(attacks="pgd"),  # type: ignore[arg-type]
        lambda: EvaluationConfig(curve=(0.1, 4.0)),
        lambda: HardenConfig(seed=-1),
        lambda: HardenConfig(seed="x"),  # type: ignore[arg-type]
        lambda: HardenConfig(method=7),  # type: ignore[arg-type]
        lambda: HardenConfig(method=None),  # type: ignore[arg-type]
        lambda: MachineConfig(mixed_precision="banana"),  # type: ignore[arg-type]
        lambda: MachineConfig(sync_batch_norm="no"),  # type: ignore[arg-type]
        lambda: MachineConfig(micro_batch_size=2.5),  # type: ignore[arg-type]
    ],
)
def test_values_of_another_kind_or_out_of_range_are_refused_when_made(make: Any) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        make()


def test_a_method_is_given_by_name_as_an_object_or_as_json() -> None:
    by_name = HardenConfig(method="trades")  # type: ignore[arg-type]
    assert by_name.method == TRADES()
    assert HardenConfig.from_dict({"method": "trades"}) == by_name
    assert HardenConfig.from_dict({"method": {"name": "trades"}}) == by_name
    assert HardenConfig(method="fast").method == HardenConfig.preset("fast").method  # type: ignore[arg-type]


def test_a_method_keeps_the_schedule_of_the_settings_it_is_laid_over() -> None:
    base = HardenConfig().with_(method={"schedule": {"epochs": 3, "encoder_learning_rate": 5e-4}})
    trades = resolved(base, "trades")
    assert isinstance(trades.method, TRADES)
    assert trades.method.schedule == base.method.schedule
    assert resolved(trades, "default").method == base.method
    assert resolved(base, MART()).method == MART()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_fixed_point_of_its_own_method(name: str) -> None:
    assert resolved(HardenConfig.preset(name), name) == HardenConfig.preset(name)


def test_larger_encoders_get_a_smaller_learning_rate_unless_one_is_set() -> None:
    schedule = Schedule()
    assert [schedule.batch(images) for images in (100, 1_600, 3_000, 20_000)] == [32, 32, 60, 128]
    assert schedule.with_(batch_size=48).batch(10**6) == 48
    assert schedule.encoder_rate(100_000) == schedule.encoder_rate(600_000) == 3e-3
    assert schedule.encoder_rate(2_400_000) == pytest.approx(1.5e-3)
    assert Schedule(encoder_learning_rate=2e-4).encoder_rate(10**9) == 2e-4


def test_rates_rise_to_their_height_and_fall_to_nothing_or_by_the_epoch() -> None:
    cosine, exponential = Schedule(epochs=10), Schedule(epochs=10, decay="exponential")
    shares = (0.0, WARM_UP / 2, WARM_UP, (1 + WARM_UP) / 2, 1.0)
    assert [cosine.factor(done) for done in shares] == pytest.approx([0.02, 0.5, 1.0, 0.5, 0.0])
    assert [exponential.factor(done) for done in (0.0, 0.09, 0.1, 0.3)] == pytest.approx([1, 1, 0.96, 0.96**3])
    with pytest.raises(ConfigError, match="encoder_learning_rate is 0"):
        Schedule(encoder_learning_rate=0.0)


def test_nested_changes_choose_another_method_only_by_its_name() -> None:
    config = HardenConfig().with_(seed=1, method={"against": {"bank_size": 2}, "genetic_weight": 0.0})
    assert isinstance(config.method, GenAF)
    assert isinstance(config.method.against, Mixture)
    assert (config.seed, config.method.against.bank_size, config.method.genetic_weight) == (1, 2, 0.0)
    other = config.with_(method={"name": "rift", "schedule": {"epochs": 3}})
    assert other.method == RiFT(schedule=Schedule(epochs=3))


def test_what_a_group_does_not_state_is_as_in_its_method_not_as_in_the_group_alone() -> None:
    method = HardenConfig.from_dict({"method": {"name": "rift", "schedule": {"batch_size": 64}}}).method
    assert method == RiFT().with_(schedule={"batch_size": 64})
    assert method.schedule.epochs == RiFT().schedule.epochs != Schedule().epochs


def test_settings_that_messages_name_are_there() -> None:
    """A setting that was moved would be looked for in vain."""
    groups = "|".join([*(field.name for field in fields(HardenConfig)), "dual_track"])
    place = re.compile(rf"(?<![\w./])(?:{groups})(?:\.[a-z_-]+)+(?![\w(])")
    found = set()
    files = {*PACKAGE.rglob("*.py"), *(PACKAGE / "export").rglob("*.py")}
    for path in files - {PACKAGE / "earlier.py", PACKAGE / "__init__.py"}:  # where no message is
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found |= {name.replace("-", "_") for name in place.findall(node.value)}
    assert "method.schedule.augmentation" in found
    for setting in found:
        config: object = HardenConfig()
        for name in setting.split("."):
            assert hasattr(config, name), setting
            config = getattr(config, name)
