"""What an evaluation costs, in passes: ways of one image through the network and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.attacks.sample_wise import FeatureAttack, SampleWise
from genaf_sdk.data.corruptions import CORRUPTIONS, STRENGTHS
from genaf_sdk.evaluation.chosen import chosen_attacks
from genaf_sdk.evaluation.curve import drawn_attacks, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genaf_sdk.attacks.base import Attack
    from genaf_sdk.data import DataSplits
    from genaf_sdk.evaluation.settings import EvaluationConfig

FORWARD = 1 / 3
"""What the way through the network is of a whole pass."""
ON_PUBLIC, ON_HARDENED, ON_BASELINE = 0.8, 0.95, 0.7
"""What attacks take of the passes that they state, as they end early: on the models of ``genaf demo``."""


@dataclass(frozen=True)
class Beside:
    """What an evaluation attacks beside the model that it is about.

    Args:
        public: The published encoder.
        baseline: The undefended model.
    """

    public: bool = True
    baseline: bool = True


def evaluation_passes(config: EvaluationConfig, data: DataSplits, beside: Beside = Beside()) -> float:
    """Return about how many passes an evaluation takes: crafting, curve, scoring.

    Attacks that state no cost count nothing, nor do the checks, whose unbounded attack ends in its first steps.
    """
    _, test = _sizes(config, data)
    models = 1 + beside.baseline
    attacks = chosen_attacks(config.attacks, config)
    found = ahead_passes(config, data, beside) + ON_HARDENED * sum(_crafted(attack, config, data) for attack in attacks)
    universal, sample_wise = drawn_attacks(attacks)
    for budget in config.curve:  # what the table has is taken from there
        if universal is not None and universal.with_budget(budget) not in attacks:
            crafted = _passes(shortened(universal), config, data)
            found += (1 + beside.public) * (ON_HARDENED * crafted + FORWARD * test)
        if sample_wise is not None and sample_wise.with_budget(budget) not in attacks:
            found += ON_HARDENED * _passes(sample_wise, config, data)
    found += replay_passes(config.attacks, config, data, beside)
    if config.corruption_samples is not None:
        found += FORWARD * models * len(CORRUPTIONS) * len(STRENGTHS) * min(config.corruption_samples, test)
    if config.certificate.patch is not None:
        masks = config.certificate.masks**2
        found += FORWARD * masks * (masks + 1) / 2 * min(config.certificate.samples, test)
    return found


def replay_passes(
    attacks: Sequence[str], config: EvaluationConfig, data: DataSplits, beside: Beside = Beside()
) -> float:
    """Return about how many passes it takes to score clean images and every perturbation that ``attacks`` craft."""
    _, test = _sizes(config, data)
    universal = [attack for attack in map(load_attack, attacks) if not isinstance(attack, SampleWise)]
    return FORWARD * test * (1 + sum(_rows(attack, beside) for attack in universal))


def ahead_passes(config: EvaluationConfig, data: DataSplits, beside: Beside = Beside()) -> float:
    """Return about how many of the passes need no hardened model: all attacks but those on it."""
    attacks = [load_attack(name) for name in config.attacks]
    return sum(
        (ON_BASELINE * beside.baseline + ON_PUBLIC * _on_public(attack, beside)) * _crafted(attack, config, data)
        for attack in attacks
    )


def _crafted(attack: Attack, config: EvaluationConfig, data: DataSplits) -> float:
    """Return what the table's row of an attack takes, by all of its seeds."""
    seeds = 1 if isinstance(attack, SampleWise) else config.attack_seeds
    return seeds * _passes(attack, config, data)


def _passes(attack: Attack, config: EvaluationConfig, data: DataSplits) -> float:
    """Return what an attack states for one row and seed."""
    crafted_on, test = _sizes(config, data)
    few = config.patch_samples if attack.is_patch else config.sample_wise_samples
    return attack.passes(min(few, test) if isinstance(attack, SampleWise) else crafted_on)


def _rows(attack: Attack, beside: Beside) -> int:
    """Return how often an attack is run: for every model, and where it needs an encoder alone on the published one."""
    return 1 + beside.baseline + _on_public(attack, beside)


def _on_public(attack: Attack, beside: Beside) -> bool:
    return beside.public and isinstance(attack, (EncoderAttack, FeatureAttack))


def _sizes(config: EvaluationConfig, data: DataSplits) -> tuple[int, int]:
    test = len(data.test)
    return min(config.surrogate_samples, len(data.train)), min(config.test_samples or test, test)
