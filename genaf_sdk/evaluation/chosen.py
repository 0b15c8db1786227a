"""Which attacks an evaluation runs, and with which settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from genaf_sdk.attacks.base import EncoderAttack, UniversalModelAttack
from genaf_sdk.attacks.registry import load_attack, parsed
from genaf_sdk.attacks.sample_wise import SampleWise
from genaf_sdk.errors import AttackError
from genaf_sdk.registry import code_of_others

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genaf_sdk.attacks.base import Attack
    from genaf_sdk.evaluation.settings import EvaluationConfig


def chosen_attacks(attacks: Sequence[str | Attack], config: EvaluationConfig) -> list[Attack]:
    """Return attacks with the budgets of ``config``; one that is given as an object or states its budget keeps it.

    Those that need less knowledge come first, so that the others can start from what these found.

    Raises:
        AttackError: A name or a setting is unknown, or an attack is of no kind that an evaluation knows.
    """
    kinds = EncoderAttack, UniversalModelAttack, SampleWise
    chosen = []
    for given in attacks:
        attack = load_attack(given)
        if isinstance(given, str) and "budget" not in parsed(given)[1] and not attack.is_patch:
            sample_wise = isinstance(attack, SampleWise)
            attack = attack.with_budget(config.sample_wise_budget if sample_wise else config.perturbation_budget)
        if not isinstance(attack, kinds):
            raise AttackError(
                f"The attack {attack.name!r} is a {type(attack).__name__}.",
                expected="a subclass of EncoderAttack, UniversalModelAttack, SampleWiseAttack or FeatureAttack",
            )
        chosen.append(attack)
    return sorted(chosen, key=lambda attack: next(i for i, kind in enumerate(kinds) if isinstance(attack, kind)))


def stated_attacks(config: EvaluationConfig) -> dict[str, Any]:
    """Return every setting of each attack by its text, as JSON: the text leaves out defaults, which may change.

    Of an attack of somebody else a hash of ``its code`` is there, too: no setting has a name with a space.

    Raises:
        AttackError: An attack, or a setting of one, is unknown.
    """
    found = {}
    for text in config.attacks:
        (attack,) = chosen_attacks([text], config)
        code = code_of_others([type(attack)])
        found[text] = attack.to_dict() | ({"its code": code} if code else {})
    stated: dict[str, Any] = json.loads(json.dumps(found, default=repr))  # attacks of others may have any setting
    return stated
