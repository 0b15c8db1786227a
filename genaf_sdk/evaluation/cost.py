"""What an evaluation costs, in passes: ways of one image through the network and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genaf_sdk.attacks.base import EncoderAttack, SampleWiseAttack
from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.data.corruptions import CORRUPTIONS, STRENGTHS
from genaf_sdk.evaluation.checks import UNBOUNDED, UNBOUNDED_IMAGES
from genaf_sdk.evaluation.curve import SAMPLE_WISE, UNIVERSAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genaf_sdk.data import DataSplits
    from genaf_sdk.evaluation.settings import EvaluationConfig

FORWARD = 1 / 3
"""What the way through the network is of a whole pass."""
MODELS = 2
"""The hardened model and the baseline."""


def evaluation_passes(config: EvaluationConfig, data: DataSplits) -> float:
    """Return about how many passes an evaluation of two models takes: crafting, curve, checks, scoring.

    Attacks that end early take fewer; those that state no cost count nothing.
    """
    crafted_on, test = _sizes(config, data)
    few = min(config.sample_wise_samples, test)
    attacks = [load_attack(name) for name in config.attacks]
    found = replay_passes(config.attacks, config, data)
    for attack in attacks:
        if isinstance(attack, SampleWiseAttack):
            found += MODELS * attack.passes(few)
        else:
            found += (MODELS + isinstance(attack, EncoderAttack)) * attack.passes(crafted_on)
    named = {attack.name: attack for attack in reversed(attacks)}
    universal, each = (named.get(name) or load_attack(name) for name in (UNIVERSAL, SAMPLE_WISE))
    found += len(config.curve) * (2 * (universal.passes(crafted_on) + FORWARD * test) + each.passes(few))
    if config.checks:
        found += UNBOUNDED.passes(min(UNBOUNDED_IMAGES, few))
    if config.corruption_samples is not None:
        found += FORWARD * MODELS * len(CORRUPTIONS) * len(STRENGTHS) * min(config.corruption_samples, test)
    if config.certificate.patch is not None:
        masks = config.certificate.masks**2
        found += FORWARD * masks * (masks + 1) / 2 * min(config.certificate.samples, test)
    return found


def replay_passes(attacks: Sequence[str], config: EvaluationConfig, data: DataSplits) -> float:
    """Return about how many passes it takes to score clean images and every perturbation that ``attacks`` craft."""
    _, test = _sizes(config, data)
    universal = [attack for attack in map(load_attack, attacks) if not isinstance(attack, SampleWiseAttack)]
    perturbations = sum(MODELS + isinstance(attack, EncoderAttack) for attack in universal)
    return FORWARD * test * (1 + perturbations)


def _sizes(config: EvaluationConfig, data: DataSplits) -> tuple[int, int]:
    test = len(data.test)
    return min(config.surrogate_samples, len(data.train)), min(config.test_samples or test, test)
