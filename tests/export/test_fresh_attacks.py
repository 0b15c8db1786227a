"""A verifier attacks a bundle anew: with a seed of its own, at every budget that is stated, on images of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from forging import differences, edit, rewrite, rows

from genaf_sdk.attacks.base import EncoderAttack, UniversalModelAttack
from genaf_sdk.attacks.sample_wise import SampleWiseAttack
from genaf_sdk.data import DataSplits
from genaf_sdk.encoders import load_encoder
from genaf_sdk.errors import GenafError
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.export.outcome import Outcome
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.verification import verify


def test_fresh_attacks_find_what_replays_cannot(
    forged: Path, sound: Path, digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genaf_sdk.fresh_attacks.FRESH", ("uapgd:steps=2", "pgd:steps=5"))
    told: list[str] = []
    honest = verify(sound, digits, fresh=True, seed=5, on_attack=told.append)
    assert re.fullmatch(r"fresh attacks, about \d+ (s|min) here", told[0])
    assert told[1:] == ["fresh: transfer uapgd", "fresh: adaptive uapgd", "fresh: white-box pgd"]
    assert honest.agrees, differences(honest)
    assert honest.count(Outcome.ATTACKED) == 3

    clean = json.loads((forged / "report.json").read_text())["scores"][0]
    rows(forged, lambda row: row.update(correct=28, changed=0) if row["crafted_on"] == "test" else None)
    assert clean["n"] > 28
    found = verify(forged, digits, fresh=True, seed=5)
    assert "fresh: white-box pgd" in differences(found)


def test_a_fresh_attack_is_held_to_the_strongest_row_of_its_kind(
    forged: Path, digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One attack is lucky or not; and leaving the row of one out leaves the promise of the others."""
    monkeypatch.setattr("genaf_sdk.fresh_attacks.FRESH", ("pgd:steps=2",))

    def fresh(**changed: Any) -> tuple[bool | None, str]:
        rows(forged, lambda row: row.update(changed) if row["crafted_on"] == "test" else None)
        items = verify(forged, digits, fresh=True, seed=5).items
        return next((item.agrees, item.stated) for item in items if item.outcome == Outcome.ATTACKED)

    agrees, said = fresh(attack="square")
    assert agrees
    assert said.endswith(" by square"), said
    agrees, said = fresh(correct=30, changed=0)
    assert not agrees, "whatever the row is called"

    honest = json.loads((forged / "report.json").read_text())["scores"]
    lucky = next(row for row in honest if row["attack"] == "square" and row["model"] == "hardened")
    edit(forged, "report.json", lambda report: report["scores"].append(lucky | {"attack": "pgd", "correct": 1}))
    rewrite(forged)
    edit(forged, "report.json", lambda report: report["scores"][-1].update(attack="apgd-ce"))
    agrees, said = fresh()
    assert agrees, said
    assert said.endswith(" by apgd-ce"), said


def test_a_fresh_attack_is_run_at_every_budget_that_is_stated(
    forged: Path, digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row at a budget that is easily borne would else keep the promise at a larger one from being tried."""
    monkeypatch.setattr("genaf_sdk.fresh_attacks.FRESH", ("pgd:steps=2",))
    rows(forged, lambda row: row.update(correct=28, changed=0) if row["attack"] == "pgd" else None)

    def decoys(content: Any) -> None:
        easy = next(row for row in content["scores"] if row["attack"] == "pgd") | {"model": "hardened"}
        content["scores"][:0] = [easy | {"budget": size / 255} for size in (0.25, 0.5, 1, 2)]

    edit(forged, "report.json", decoys)
    rewrite(forged)
    items = {item.what: item for item in verify(forged, digits, fresh=True, seed=5).items}
    assert items["fresh: white-box pgd, 8/255"].agrees is False
    for size, outcome in (("2", Outcome.ATTACKED), ("1", Outcome.ATTACKED), ("0.5", Outcome.NOT_REPLAYED)):
        assert items[f"fresh: white-box pgd, {size}/255"].outcome == outcome


def test_rows_under_which_nothing_fresh_is_run_are_listed(
    sound: Path, digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genaf_sdk.fresh_attacks.FRESH", ("uapgd:steps=5",))
    monkeypatch.setattr("genaf_sdk.encoders.bundled.known", list)
    items = {item.what: item for item in verify(sound, digits, fresh=True, seed=5).items}
    assert items["fresh: adaptive uapgd, 10/255"].outcome == Outcome.ATTACKED
    assert items["fresh: adaptive uapgd, 10/255"].found.endswith("(seed 5)"), "which one was drawn, to try it again"
    assert items["fresh: transfer uapgd, 10/255"].found.startswith("the published encoder is not in the bundle")
    for what in ("white-box pgd, 8/255", "adaptive advencoder-pat, 3.0% of the area"):
        assert items[f"fresh: {what}"].found == "no fresh attack is of its kind and budget"


def test_attacks_are_transferred_anew_from_the_encoder_that_the_verifier_has(
    forged: Path, digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what the attacker of the threat model has, and perturbations that are replayed may be weak ones."""
    monkeypatch.setattr("genaf_sdk.fresh_attacks.FRESH", ("uapgd:steps=2", "pgd:steps=2"))
    crafted_on, tries = list[Any](), EncoderAttack.tries

    def spied(attack: EncoderAttack, encoder: Any, *args: Any, **settings: Any) -> list[Perturbation]:
        crafted_on.append((encoder, settings["start"]))
        return tries(attack, encoder, *args, **settings)

    monkeypatch.setattr(EncoderAttack, "tries", spied)
    public = load_encoder("bundled:simclr-cifar10")
    what = "fresh: transfer uapgd, 10/255"
    honest = {item.what: item for item in verify(forged, digits, fresh=True, seed=5, encoder=public).items}
    assert (honest[what].outcome, honest[what].agrees) == (Outcome.ATTACKED, True)
    (transferred, begin), (own, start) = crafted_on
    assert transferred is public
    assert own is not public
    assert begin is None
    assert start.attack == "uapgd"

    right = json.loads((forged / "report.json").read_text())["scores"][0]["correct"]
    rows(forged, lambda row: row.update(correct=right, changed=0) if row["column"] == "transfer" else None)
    flattering = {item.what: item for item in verify(forged, digits, fresh=True, seed=5, encoder=public).items}
    assert flattering[what].agrees is False


def test_fresh_patches_start_from_what_less_knowledge_found(
    sound: Path, digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "genaf_sdk.fresh_attacks.FRESH",
        (
            *("encoder-patch:steps=8,grid=1", "patch-uap:steps=8,grid=1", "pgd:steps=2"),
            "patch:steps=4,grid=1,windows=1,finalists=1",
        ),
    )
    monkeypatch.setattr("genaf_sdk.fresh_attacks.IMAGES", EvaluationConfig(patch_samples=20, sample_wise_samples=30))
    starts: list[Perturbation | None] = []
    for kind, name in ((EncoderAttack, "tries"), (UniversalModelAttack, "__call__"), (SampleWiseAttack, "__call__")):
        plain = getattr(kind, name)

        def spied(*args: Any, start: Perturbation | None, call: Any = plain, **settings: Any) -> Any:
            starts.append(start)
            return call(*args, start=start, **settings)

        monkeypatch.setattr(kind, name, spied)
    found = verify(sound, digits, fresh=True, seed=5)
    assert differences(found).startswith("fresh: transfer encoder-patch"), "the only patch of the report had one epoch"
    fresh = [item for item in found.items if item.outcome == Outcome.ATTACKED]
    assert [item.what.removeprefix("fresh: ") for item in fresh] == [
        "transfer encoder-patch, 3.0% of the area",
        "adaptive encoder-patch, 3.0% of the area",
        "white-box patch-uap, 3.0% of the area",
        "white-box pgd, 8/255",
        "white-box patch, 3.0% of the area",
    ]
    assert [start and start.attack for start in starts] == [None, *["encoder-patch"] * 2, None, "patch-uap"]
    assert [re.search(r" of (\d+) right", item.found)[1] for item in fresh[3:]] == ["30", "20"]  # type: ignore[index]


def test_of_several_fresh_tries_the_strongest_counts_and_is_gone_on_from(
    sound: Path, digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who knows no labels takes the first; a verifier knows them, as the evaluation that is verified did."""
    made = list[Perturbation]()

    def tries(attack: EncoderAttack, encoder: Any, pixels: Any, **_: Any) -> list[Perturbation]:
        values = torch.zeros(pixels.shape[1:])
        if not made:
            noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
            made.extend(Perturbation(0.9 * size * noise.sign(), attack.threat) for size in (0, attack.budget))
            return made
        return [Perturbation(values, attack.threat)]

    starts: list[Perturbation | None] = []
    monkeypatch.setattr(EncoderAttack, "tries", tries)
    labeled = UniversalModelAttack.__call__

    def spied(*args: Any, start: Perturbation | None, **settings: Any) -> Perturbation:
        starts.append(start)
        return labeled(*args, start=start, **settings)

    monkeypatch.setattr(UniversalModelAttack, "__call__", spied)
    monkeypatch.setattr("genaf_sdk.fresh_attacks.FRESH", ("cluster-uap", "uapgd", "label-uap:steps=1,goals=0"))
    found = verify(sound, digits, fresh=True, seed=5)
    fresh = [int(item.found.split()[0]) for item in found.items if item.outcome == Outcome.ATTACKED]
    assert fresh[0] < fresh[1], "the second try of the first attack, and the only one of the second"
    assert starts == [made[1]], "which is stronger than what came last"


def test_anyone_can_attack_on_images_of_their_own(
    sound: Path, digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    monkeypatch.setattr("genaf_sdk.fresh_attacks.FRESH", ("uapgd:steps=2",))
    own = dataclasses.replace(digits, test=digits.validation, name="mine")
    with pytest.raises(GenafError, match="--fresh"):
        verify(sound, own)
    found = verify(sound, own, fresh=True, seed=1)
    assert found.count(Outcome.REPLAYED) == 0
    assert found.count(Outcome.ATTACKED) == 2
    assert not found.differences
