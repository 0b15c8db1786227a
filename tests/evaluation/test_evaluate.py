from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk import HardenConfig, evaluate
from genaf_sdk.attacks import PGD, Perturbation
from genaf_sdk.config import EvaluationConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.keys import PerturbationKey
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.report.scores import Score, wilson_interval


class Redness(nn.Module):
    """A classifier one can compute by hand: the channel with the highest mean wins."""

    def __init__(self, levels: int | None = None) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(10.0))
        self.levels = levels

    def forward(self, pixels: Tensor) -> Tensor:
        if self.levels is not None:
            pixels = (pixels * self.levels).round() / self.levels
        return self.gain * pixels.mean((2, 3))


@pytest.fixture
def config(quick_config: HardenConfig) -> EvaluationConfig:
    return replace(quick_config.evaluation, attacks=("pgd",), curve=())


def test_figures_are_exact_counts_of_the_deployed_function(striped: DataSplits, config: EvaluationConfig) -> None:
    model = Redness()
    values = torch.zeros(3, 16, 16)
    values[0] = 0.5  # redder than any stripe is green
    red = Perturbation(values, Linf(0.5), key=PerturbationKey(attack="red"))

    report = evaluate(model, striped, perturbations={"red": red}, config=replace(config, checks=False))

    row = next(score for score in report.scores if score.attack == "red")
    pixels, labels = striped.test.head()
    predicted = model((pixels + values).clamp(0, 1)).argmax(1)
    assert row.correct == int((predicted == labels).sum())
    assert row.changed == int((predicted != model(pixels).argmax(1)).sum())
    assert row.n == len(labels) == 60
    assert report.accuracy("clean") == 1.0


def test_a_model_that_masks_its_gradients_is_warned_about(striped: DataSplits, config: EvaluationConfig) -> None:
    honest = evaluate(Redness(), striped, config=config)
    masked = evaluate(Redness(levels=8), striped, config=config)

    assert all(check.passed for check in honest.checks)
    failed = {check.name: check.figures for check in masked.checks if not check.passed}
    assert "An unbounded attack succeeds" in failed
    assert "%" in failed["An unbounded attack succeeds"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x.mean((2, 3)) * float("nan"), "NaN"),
        (lambda x: x.mean((1, 2, 3)), r"\(60,\)"),
        (3, "a int"),
    ],
)
def test_models_that_cannot_be_measured_are_refused(
    model: object, message: str, striped: DataSplits, config: EvaluationConfig
) -> None:
    with pytest.raises(AttackError, match=message):
        evaluate(model, striped, config=config)


def test_surrogate_images_of_another_size_are_resized(
    striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    report = evaluate(
        Redness(),
        striped,
        attacks=["uapgd"],
        encoder=tiny_encoder,
        surrogate=torch.rand(40, 3, 20, 24),
        config=config,
    )
    rows = [score for score in report.scores if score.column == "transfer"]
    assert [row.crafted_on for row in rows] == ["surrogate"]


def test_an_attack_given_as_an_object_keeps_its_budget(striped: DataSplits, config: EvaluationConfig) -> None:
    report = evaluate(Redness(), striped, attacks=[PGD(budget=0.4, steps=3)], config=config)
    assert [score.budget for score in report.scores if score.attack == "pgd"] == [0.4]


def test_wilson_interval_has_its_known_values() -> None:
    low, high = wilson_interval(8, 10)
    assert (low, high) == (pytest.approx(0.4901625, abs=1e-6), pytest.approx(0.9433178, abs=1e-6))
    assert wilson_interval(0, 50)[0] == 0.0
    assert wilson_interval(50, 50)[1] == 1.0
    assert Score("hardened", "clean", "", 0.0, 10, 8, 0).interval == (low, high)
