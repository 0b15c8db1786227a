"""Settings of attacks as text: read by the type that a setting has, whatever its default."""

from __future__ import annotations

import pytest

from genaf_sdk.attacks import PGD, SSP, UAPGD, AdvEncoderPat, TargetedUAP, load_attack
from genaf_sdk.attacks.registry import parsed
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.threat import Linf, Patch


def test_values_are_read_by_their_types() -> None:
    assert load_attack("pgd:steps=1e2,budget=8/255,relative_step_size=1/4") == PGD(8 / 255, steps=100)
    assert load_attack("targeted-uap:target=2") == TargetedUAP(target=2)
    assert load_attack("targeted-uap:target=None,steps=30") == TargetedUAP(steps=30)
    assert load_attack("ssp:layer=3,depth=1") == SSP(layer="3", depth=1.0)
    assert load_attack("uapgd:loss=info-nce,precision=fp32") == UAPGD(loss="info-nce", precision="fp32")


def test_the_older_spelling_of_the_step_is_read() -> None:
    assert load_attack("pgd:relative_step=0.5") == PGD(relative_step_size=0.5)


@pytest.mark.parametrize(
    "text",
    [
        "pgd:steps=2.7",
        "pgd:steps=True",
        "pgd:steps=None",
        "pgd:steps=nan",
        "pgd:steps=",
        "pgd:steps",
        "pgd:steps=ten",
        "pgd:steps=1/0",
        "pgd:budget=inf",
        "pgd:budget=1e-9",
        "uapgd:batch_size=True",
        "uapgd:relative_step_size=None",
        "uapgd:relative_step_size=1.5",
        "uapgd:loss=None",
        "uapgd:precision=fp64",
        "targeted-uap:target=2.5",
        "targeted-uap:target=none",
        "pgd:steps=5,steps=6",
        "pgd:relative_step=0.1,relative_step_size=0.2",
        "pgd:step=5",
        "pgd:name=x",
    ],
)
def test_everything_else_is_refused_with_the_setting_named(text: str) -> None:
    with pytest.raises(AttackError) as caught:
        load_attack(text)
    assert text.partition(":")[2].partition("=")[0].removesuffix("_size") in str(caught.value)


def test_a_setting_that_there_is_none_of_is_answered_with_all_and_the_nearest() -> None:
    with pytest.raises(AttackError, match=r"Expected: one of budget, .*precision, .*steps.*To do: try steps"):
        load_attack("uapgd:stepz=5")


def test_what_is_stated_can_be_told_from_what_is_not() -> None:
    assert parsed("pgd:steps=5") == (PGD, {"steps": 5})
    assert parsed("uapgd") == (UAPGD, {})


def test_the_threat_follows_from_the_kind_and_the_budget() -> None:
    assert load_attack("uapgd:budget=0.1").threat == Linf(0.1)
    assert AdvEncoderPat().with_budget(0.05).threat == Patch(0.05)
