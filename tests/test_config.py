from __future__ import annotations

import json
from typing import Any

import pytest

from genaf_sdk.config import AdversaryConfig, DualTrackConfig, EvaluationConfig, HardenConfig
from genaf_sdk.errors import ConfigError
from genaf_sdk.presets import PRESETS, with_method


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name: str) -> None:
    config = HardenConfig.preset(name)
    assert HardenConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_paper_preset_states_the_papers_numbers() -> None:
    stage1 = HardenConfig.preset("paper").dual_track
    adversary = stage1.adversary
    assert (stage1.epochs, stage1.batch_size, stage1.schedule, stage1.weight_decay) == (50, 256, "exponential", 8e-4)
    assert (stage1.encoder_learning_rate, stage1.head_learning_rate) == (1e-4, 5e-3)
    assert (adversary.kind, adversary.budget, adversary.step_size, adversary.steps) == ("pgd", 8 / 255, 2 / 255, 10)
    assert stage1.alignment_weight == 0  # not in the paper
    assert HardenConfig.preset("paper").adaptability.redundant_fraction == 0.2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sed": 1}, r"'sed'.*seed"),
        ({"dual_track": {"epoch": 3}}, r"dual_track\.'epoch'"),
        ({"dual_track": {"epochs": 2.5}}, r"dual_track\.epochs is 2\.5"),
        ({"dual_track": {"adversary": {"kind": "none of these"}}}, "'mixed'"),
        ({"dual_track": 3}, "JSON object"),
        ({"evaluation": {"attacks": "pgd"}}, "a list"),
        ({"seed": True}, "type int"),
    ],
)
def test_settings_that_cannot_be_read_are_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HardenConfig.from_dict(content)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdversaryConfig(budget=0),
        lambda: AdversaryConfig(budget=8),
        lambda: AdversaryConfig(sample_wise_share=0.8, patch_share=0.3),
        lambda: DualTrackConfig(batch_size=1),
        lambda: DualTrackConfig(adversarial_weight=0, clean_weight=0),
        lambda: EvaluationConfig(attacks=()),
        lambda: EvaluationConfig(curve=(0.1, 4.0)),
        lambda: HardenConfig(seed=-1),
    ],
)
def test_values_out_of_range_are_refused_when_made(make: Any) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        make()


def test_a_method_keeps_the_lengths_and_steps_of_the_settings_it_is_laid_over() -> None:
    base = HardenConfig(dual_track=DualTrackConfig(epochs=3, encoder_learning_rate=5e-4))
    trades = with_method(base, "trades")
    assert (trades.method, trades.dual_track.objective, trades.adaptability.epochs) == ("trades", "trades", 0)
    assert (trades.dual_track.epochs, trades.dual_track.encoder_learning_rate) == (3, 5e-4)
    assert with_method(trades, "default").dual_track.adversary == AdversaryConfig()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_a_fixed_point_of_its_own_method(name: str) -> None:
    assert with_method(HardenConfig.preset(name), name) == HardenConfig.preset(name)


def test_larger_encoders_get_a_smaller_step_unless_one_is_set() -> None:
    track = DualTrackConfig()
    assert track.encoder_step(100_000) == track.encoder_step(600_000) == 3e-3
    assert track.encoder_step(2_400_000) == pytest.approx(1.5e-3)
    assert DualTrackConfig(encoder_learning_rate=2e-4).encoder_step(10**9) == 2e-4
    with pytest.raises(ConfigError, match="encoder_learning_rate is 0"):
        DualTrackConfig(encoder_learning_rate=0.0)
