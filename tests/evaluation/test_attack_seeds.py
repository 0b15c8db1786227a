"""An attack by several seeds: the strongest counts, each seed goes its own way, and nothing is crafted twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk import HardenConfig, evaluate
from genaf_sdk.attacks import EncoderAttack, Perturbation, UniversalModelAttack
from genaf_sdk.data import DataSplits
from genaf_sdk.evaluation.cost import evaluation_passes
from genaf_sdk.evaluation.kept import Kept
from genaf_sdk.evaluation.settings import EvaluationConfig

REDDENS = 11
"""The one seed that does anything. No other may do as much by chance."""


class Redness(nn.Module):
    """The channel with the highest mean wins."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.gain = nn.Parameter(torch.tensor(10.0))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.gain * self.encoder(pixels).mean((2, 3))


@dataclass(frozen=True)
class Lucky(EncoderAttack):
    """Turns everything red by one seed, and notes what it is given."""

    name, source = "lucky", "here"
    budget: float = 0.6
    begun: ClassVar[list[tuple[int, int | None]]] = []

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        seed = generator.initial_seed()
        self.begun.append((seed, None))
        return painted(seed, surrogate, self)

    def run_from(
        self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator, start: Perturbation
    ) -> Perturbation:
        found = start.details["seed"]
        self.begun.append((generator.initial_seed(), found if isinstance(found, int) else None))
        return painted(generator.initial_seed(), surrogate, self)


@dataclass(frozen=True)
class LuckyWithLabels(UniversalModelAttack):
    """The same with labels."""

    name, source = "lucky-with-labels", "here"
    budget: float = 0.6

    def run(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Perturbation:
        return painted(generator.initial_seed(), pixels, self)


def painted(seed: int, images: Tensor, attack: EncoderAttack | UniversalModelAttack) -> Perturbation:
    values = torch.zeros(images.shape[1:])
    values[0] = attack.budget * (seed == REDDENS)
    return Perturbation(values, attack.threat)


@pytest.fixture
def config(quick_config: HardenConfig) -> EvaluationConfig:
    Lucky.begun.clear()
    return replace(quick_config.evaluation, curve=(), checks=False, surrogate_samples=60)


@pytest.mark.parametrize(("seeds", "found"), [(1, False), (2, False), (3, True)])
def test_of_all_seeds_the_strongest_counts(
    seeds: int, found: bool, striped: DataSplits, config: EvaluationConfig
) -> None:
    config = replace(config, attack_seeds=seeds)
    report = evaluate(
        Redness(), striped, attacks=[Lucky(), LuckyWithLabels()], encoder=nn.Identity(), seed=9, config=config
    )
    rows = {row.column: row for row in report.scores if row.attack.startswith("lucky")}
    assert set(rows) == {"transfer", "adaptive", "white-box"}
    for row in rows.values():
        assert (row.accuracy < 0.5) == found
        if found:
            assert report.perturbations[row.perturbation].details["seed"] == REDDENS
    # Who knows the hardened encoder has what was found on the public one, too, where there is more than one try.
    assert (rows["transfer"].tries, rows["adaptive"].tries) == (seeds, seeds if seeds == 1 else 2 * seeds)


def test_every_seed_begins_with_what_it_found_before(striped: DataSplits, config: EvaluationConfig) -> None:
    config = replace(config, attack_seeds=3)
    evaluate(Redness(), striped, attacks=[Lucky()], encoder=nn.Identity(), seed=9, config=config)
    assert sorted(Lucky.begun[:3]) == [(9, None), (10, None), (11, None)]
    assert sorted(Lucky.begun[3:]) == [(9, 9), (10, 10), (11, 11)]


def test_a_row_says_what_all_seeds_took(striped: DataSplits) -> None:
    def craft(seed: int, start: Perturbation | None) -> list[Perturbation]:
        made = Lucky().tries(nn.Identity(), images, seed=seed, start=start)
        return [replace(found, details=found.details | {"seconds": 0.5 + seed}) for found in made]

    images = striped.train.sample(4)[0]
    found = Kept().by_seeds(Lucky(), nn.Identity(), (images,), {1: None, 2: None}, craft)
    assert [one.details["seed"] for one in found] == [1, 2]
    assert [one.seconds for one in found] == [4.0, 4.0]


def test_one_more_seed_crafts_that_alone(striped: DataSplits, config: EvaluationConfig, tmp_path: Path) -> None:
    crafted = []
    for seeds in (1, 2):
        Lucky.begun.clear()
        chosen = replace(config, attack_seeds=seeds)
        evaluate(
            Redness(), striped, attacks=[Lucky()], encoder=nn.Identity(), seed=9, config=chosen, kept=Kept(tmp_path)
        )
        crafted.append(sorted(seed for seed, _ in Lucky.begun))
    assert crafted == [[9, 9], [10, 10]]


def test_time_is_told_for_every_seed(striped: DataSplits) -> None:
    def passes(*attacks: str, seeds: int) -> float:
        return evaluation_passes(EvaluationConfig(attacks=attacks, curve=(), attack_seeds=seeds), striped)

    one, two, three = (passes("uapgd", seeds=seeds) for seeds in (1, 2, 3))
    assert three - two == pytest.approx(two - one)
    assert two > 1.5 * one, "what is crafted counts anew, what is scored does not"
    assert passes("pgd", seeds=3) == passes("pgd", seeds=1), "it perturbs each image by itself"
