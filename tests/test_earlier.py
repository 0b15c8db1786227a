"""Settings of earlier versions: what the committed results and users' files hold is still read."""

from __future__ import annotations

import dataclasses
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from genaf_sdk.cli.settings import starting_settings
from genaf_sdk.config import HardenConfig
from genaf_sdk.errors import ConfigError
from genaf_sdk.methods import PGD, GenAF, Masked, Mixture, RiFT
from genaf_sdk.methods.steps import SignSteps
from genaf_sdk.rows import ComparisonRow, read_rows

ROOT = Path(__file__).parents[1]
EVERY = [row for file in sorted((ROOT / "docs" / "results").glob("*/comparison.jsonl")) for row in read_rows(file)]


def label(row: ComparisonRow) -> str:
    return f"{row.method}-{row.seed}"


def benchmark(name: str) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"))
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("row", EVERY, ids=label)
def test_a_committed_row_of_today_is_what_its_name_says(row: ComparisonRow) -> None:
    read, named = HardenConfig.from_dict(row.config), benchmark("robustness")["configured"](row.method)
    assert read == named.with_(seed=row.seed, evaluation=read.evaluation, machine=read.machine)


def test_rows_of_the_first_version_are_the_presets_of_then() -> None:
    default, trades = read_rows(Path(__file__).with_name("rows-of-the-first-version.jsonl"))
    schedule = {"encoder_learning_rate": None, "batch_size": 128}
    stage_2 = {"probe_epochs": 0, "learning_rate": 1e-3}
    then = {
        "schedule": schedule,
        "against": {"redraw_every": 40, "ramp": 0.0, "patch_aim": 0.0},
        "adaptability": stage_2,
    }
    assert_settings(default, HardenConfig().with_(method=then))
    then = {"schedule": schedule, "against": {"ramp": 0.0}}
    assert_settings(trades, HardenConfig.preset("trades").with_(method=then))


def assert_settings(row: ComparisonRow, expected: HardenConfig) -> None:
    read = HardenConfig.from_dict(row.config)
    assert read == expected.with_(seed=row.seed, evaluation=read.evaluation)
    assert HardenConfig.from_dict(read.to_dict()) == read


def test_a_loss_that_is_gone_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dual_track\.alignment_weight is 1\.0"):
        HardenConfig.from_dict({"dual_track": {"alignment_weight": 1.0}})


def test_every_setting_finds_its_place() -> None:
    read = HardenConfig.from_dict(
        {
            "seed": 3,
            "undefended_epochs": 5,
            "undefended_encoder_learning_rate": 1e-3,
            "validation_fraction": 0.2,
            "mixed_precision": "bf16",
            "sync_batch_norm": False,
            "micro_batch_size": 32,
            "non_finite": "skip",
            "loading": {"balance": "repeat"},
            "sensitivity": {"method": "exact"},
            "adaptability": {"tolerance": 0.1},
            "dual_track": {
                "epochs": 7,
                "schedule": "exponential",
                "clean_weight": 0.5,
                "adversary": {"budget": 4 / 255, "universal_budget": 6 / 255, "bank_size": 3},
            },
        }
    )
    against = {"sample_wise": {"epsilon": 4 / 255}, "universal_epsilon": 6 / 255, "bank_size": 3}
    against |= {"ramp": 0.0, "patch_aim": 0.0}
    assert read == HardenConfig().with_(
        seed=3,
        baseline={"epochs": 5, "encoder_learning_rate": 1e-3},
        loading={"validation_fraction": 0.2, "balance": "repeat"},
        machine={"mixed_precision": "bf16", "sync_batch_norm": False, "micro_batch_size": 32, "non_finite": "skip"},
        method={
            "schedule": {"epochs": 7, "decay": "exponential"},
            "clean_weight": 0.5,
            "against": against,
            "adaptability": {"tolerance": 0.1, "probe_epochs": 0, "sensitivity": {"method": "exact"}},
        },
    )


def test_the_method_follows_from_loss_and_adversary() -> None:
    one_track = {"clean_weight": 0.0, "genetic_weight": 0.0, "adversary": {"kind": "pgd", "steps": 1}}
    rift = HardenConfig.from_dict({"method": "rift", "dual_track": one_track, "adaptability": {"epochs": 10}}).method
    assert isinstance(rift, RiFT)
    assert rift.against == PGD(steps=1, ramp=0.0)
    assert HardenConfig.from_dict({"method": "pgd-at", "dual_track": one_track}).method.name == "pgd-at"
    with_pgd = HardenConfig.from_dict({"dual_track": {"adversary": {"kind": "pgd"}}}).method
    assert isinstance(with_pgd, GenAF)
    assert with_pgd.against == PGD(steps=2, ramp=0.0)
    assert isinstance(HardenConfig.from_dict({"dual_track": {"epochs": 2}}).method.against, Mixture)


def test_what_is_missing_is_that_of_the_method() -> None:
    read = HardenConfig.from_dict({"method": {"name": "rift", "adaptability": {"epochs": 3}}}).method
    assert read == RiFT().with_(adaptability={"epochs": 3})
    sample_wise = {"method": {"against": {"sample_wise": {"epsilon": 4 / 255}}}}
    assert HardenConfig.from_dict(sample_wise) == HardenConfig().with_(**sample_wise)


def test_patches_of_a_mixture_lay_at_random() -> None:
    whole = dataclasses.asdict(Mixture())
    assert HardenConfig.from_dict({"method": {"against": {"name": "mixture", **whole}}}).method.against == Mixture()
    del whole["patch_aim"]
    earlier = HardenConfig.from_dict({"method": {"against": {"name": "mixture", **whole}}}).method.against
    assert earlier == Mixture(patch_aim=0.0)
    some = HardenConfig.from_dict({"method": {"against": {"name": "mixture", "bank_size": 2}}}).method.against
    assert some == Mixture(bank_size=2)


def test_steps_of_a_mixture_were_a_pgd_of_their_own() -> None:
    steps = {"name": "pgd", "epsilon": 4 / 255, "step_size": 4 / 255, "steps": 1, "away_from": "label", "ramp": 0.0}
    mixture = {"name": "mixture", "sample_wise": steps}
    expected = Mixture(sample_wise=SignSteps(4 / 255, 4 / 255, 1))
    assert HardenConfig.from_dict({"method": {"against": mixture}}).method.against == expected
    masked = HardenConfig.from_dict({"method": {"against": {"name": "masked", "inner": mixture}}}).method.against
    assert masked == Masked(inner=expected)
    assert steps["ramp"] == 0.0, "what was handed over is left alone"


@pytest.mark.parametrize(
    ("written", "preset", "changes"),
    [
        ("dual_track: {epochs: 2}", "trades", {"schedule": {"epochs": 2}}),
        ("method: {name: trades, schedule: {epochs: 2}}", "trades", {"schedule": {"epochs": 2}}),
        ("preset: trades\nmethod: {beta: 3}", "trades", {"beta": 3.0}),
        (
            "dual_track: {adversary: {bank_size: 2}}",
            "default",
            {"against": {"bank_size": 2, "ramp": 0.0, "patch_aim": 0.0}},
        ),
    ],
)
def test_a_file_is_laid_over_its_preset(tmp_path: Path, written: str, preset: str, changes: dict[str, object]) -> None:
    (tmp_path / "settings.yaml").write_text(written)
    stated = () if "method" in written else ("--preset", preset)
    read, _ = starting_settings([*stated, "--config", str(tmp_path / "settings.yaml")])
    assert read == HardenConfig.preset(preset).with_(method=changes)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"dual_track": {"epoch": 2}}, "epoch"),
        ({"dual_track": {"adversary": {"sise": 2}}}, "sise"),
        ({"dual_track": {"adversary": {"kind": "fgsm"}}}, "fgsm"),
        ({"dual_track": {"objective": "tradez"}}, "tradez"),
        ({"dual_track": {"epochs": 2}, "sede": 1}, "sede"),
        ({"adaptability": {"epoks": 2}}, "epoks"),
        ({"dual_track": 3}, "dual_track is 3"),
    ],
)
def test_what_no_version_had_is_refused_by_name(content: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        HardenConfig.from_dict(content)
