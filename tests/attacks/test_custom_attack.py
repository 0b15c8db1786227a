"""Attacks of third parties: by decorator, as the example shows, and by entry point."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk import registry
from genaf_sdk.attacks import Attack, EncoderAttack, Perturbation, known_attacks, load_attack, register
from genaf_sdk.attacks.registry import ATTACKS
from genaf_sdk.errors import AttackError
from genaf_sdk.evaluation.chosen import chosen_attacks
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.inputs.threat import Patch

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_attack.py"


@pytest.fixture(autouse=True)
def _registry_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    known_attacks()
    monkeypatch.setattr(ATTACKS, "_items", dict(ATTACKS.items()))


@dataclass(frozen=True)
class Checkerboard(EncoderAttack):
    name = "checkerboard"
    source = "nowhere"

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        rows, columns = (torch.arange(size) for size in surrogate.shape[2:])
        board = ((rows[:, None] + columns) % 2 * 2 - 1).float()
        return Perturbation(2 * self.budget * board.expand(surrogate.shape[1:]), self.budget)


def test_the_example_runs_and_its_attack_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    noise, collapse = (float(line.rsplit(" ", 1)[1]) for line in capsys.readouterr().out.splitlines())
    assert collapse > noise
    assert "collapse" in known_attacks()


def test_an_entry_point_is_found_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("checkerboard", f"{__name__}:Checkerboard", ATTACKS.group)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Checkerboard)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == ATTACKS.group else [])
    attack = load_attack("checkerboard:budget=4/255")
    assert isinstance(attack, Checkerboard)
    images = torch.rand(2, 3, 4, 4)
    values = attack(nn.Flatten(), images).values
    assert torch.equal(values.abs(), torch.full_like(values, 4 / 255))  # the template held it to its budget


def test_two_attacks_of_one_name_are_refused_and_an_unknown_name_is_answered() -> None:
    register(Checkerboard)

    @dataclass(frozen=True)
    class Other(Checkerboard):
        pass

    with pytest.raises(AttackError, match="checkerboard"):
        register(Other)
    with pytest.raises(AttackError, match="checkerboard"):
        load_attack("chekerboard")


def test_an_attack_of_no_kind_is_refused_with_the_kinds_that_there_are() -> None:
    @dataclass(frozen=True)
    class Kindless(Attack):
        name = "kindless"
        source = "nowhere"

    with pytest.raises(AttackError, match=r"'kindless' is a Kindless\. Expected: a subclass of EncoderAttack"):
        chosen_attacks([Kindless()], EvaluationConfig())


def test_an_attack_that_hands_over_its_budget_in_place_of_a_threat_still_runs() -> None:
    @dataclass(frozen=True)
    class Corner(EncoderAttack):
        name = "corner"
        source = "nowhere"
        is_patch: ClassVar[bool] = True
        side: int = 2

        def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
            mask = torch.zeros(1, *surrogate.shape[2:])
            mask[:, : self.side, : self.side] = 1
            return Perturbation(3 * surrogate[0], self.budget, mask, details={"note": 1})  # type: ignore[arg-type]

    images = torch.rand(2, 3, 4, 4)
    found = Corner(budget=0.25)(nn.Flatten(), images)
    assert found.threat == Patch(0.25)
    assert (str(found.key), found.details["note"], found.details["side"]) == ("transfer-corner", 1, 2)
    torch.testing.assert_close(found.values, (3 * images[0]).clamp(0, 1))
    with pytest.raises(AttackError, match="side"):
        Corner(side=2.5)  # type: ignore[arg-type]


def test_a_patch_larger_than_its_budget_is_refused() -> None:
    @dataclass(frozen=True)
    class Cover(Checkerboard):
        name = "cover"

        def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
            return Perturbation(surrogate[0], self.budget, torch.ones(1, *surrogate.shape[2:]))

    with pytest.raises(AttackError, match=r"covers 100\.00%"):
        Cover()(nn.Flatten(), torch.rand(2, 3, 4, 4))


def test_nan_in_the_result_is_refused() -> None:
    @dataclass(frozen=True)
    class Broken(Checkerboard):
        name = "broken"

        def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
            return Perturbation(surrogate[0] * torch.nan, self.budget)

    with pytest.raises(AttackError, match="NaN"):
        Broken()(nn.Flatten(), torch.rand(2, 3, 4, 4))
