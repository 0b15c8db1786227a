"""What is known before training: sound runs pass, every defect is named, nothing is left behind."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import genaf_sdk
from genaf_sdk import HardenConfig, harden
from genaf_sdk.cli import main
from genaf_sdk.data import DataSplits
from genaf_sdk.errors import AttackError, ConfigError, EncoderError, ExportError, GenafError, OutputError
from genaf_sdk.export.parity import BATCH_SIZES
from genaf_sdk.pipeline import check
from genaf_sdk.preflight import CHECKS


class Defective(nn.Module):
    """A tiny encoder with one thing wrong."""

    def __init__(self, defect: str) -> None:
        super().__init__()
        self.defect, self.calls = defect, 0
        self.conv = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(8, track_running_stats=defect != "batch statistics")

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        features = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        if self.defect == "dropout that never stops":
            return nn.functional.dropout(features, 0.5, training=True)
        if self.defect == "no gradient":
            return features.detach()
        if self.defect == "constant features":
            return features * 0 + 1
        if self.defect == "state kept from pass to pass":
            return features + self.calls
        if self.defect == "squeezed batch of one":
            return features.squeeze()
        if self.defect == "branch on values" and float(features.detach().sum()) > 1e6:
            return features * 2
        if self.defect == "another width in training":
            return torch.cat([features, features], 1) if self.training else features
        return features


WRONG = [
    "batch statistics",
    "dropout that never stops",
    "no gradient",
    "constant features",
    "state kept from pass to pass",
    "squeezed batch of one",
    "another width in training",
]


@pytest.mark.parametrize("defect", WRONG)
def test_a_defect_of_the_encoder_is_named_before_training(
    defect: str, striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genaf_sdk.pipeline.train", lambda *_: pytest.fail("training began"))
    torch.manual_seed(0)
    encoder = Defective(defect)
    findings = check(encoder, striped, quick_config)
    assert findings[0].level == "error"
    assert findings[0].subject == "encoder"
    with pytest.raises(EncoderError):
        harden(encoder, striped, quick_config, progress=False)


def test_what_cannot_be_exported_is_known_before_training(
    striped: DataSplits, quick_config: HardenConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genaf_sdk.pipeline.train", lambda *_: pytest.fail("training began"))
    with pytest.raises(ExportError):
        harden(Defective("branch on values"), striped, quick_config, output_dir=tmp_path, progress=False)


def test_the_trial_export_is_compared_in_batches_of_every_size(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: list[int] = []
    monkeypatch.setattr("genaf_sdk.preflight.check_parity", lambda model, path, images: seen.append(len(images)))
    check(tiny_encoder, striped, quick_config, output_dir=tmp_path)
    assert seen == [max(BATCH_SIZES)]


def test_a_full_disk_is_no_defect_of_the_encoder(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError("model.safetensors cannot be written: No space left on device.", remedy="free space")

    monkeypatch.setattr("genaf_sdk.preflight.save_classifier", full)
    with pytest.raises(OutputError, match=r"^model\.safetensors cannot be written.*To do: free space"):
        harden(tiny_encoder, striped, quick_config, progress=False)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("pgdd", "pgd"),
        ("pgd:steps=2.7", "whole number"),
        ("ssp:layer=nope", "nope"),
        ("targeted-uap:target=3", "0 to 2"),
    ],
)
def test_an_attack_that_cannot_run_is_known_before_training(
    attack: str, words: str, tiny_encoder: nn.Module, striped: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genaf_sdk.pipeline.train", lambda *_: pytest.fail("training began"))
    monkeypatch.setitem(CHECKS, "time", lambda _: pytest.fail("more was tried after what failed"))
    config = HardenConfig().with_(evaluation={"attacks": ("uapgd", attack)})
    with pytest.raises(AttackError, match=words):
        harden(tiny_encoder, striped, config, progress=False)
    with pytest.raises(AttackError, match=words):
        genaf_sdk.compare(tiny_encoder, striped, ["fine-tuning"], evaluation=config.evaluation, progress=False)


def test_a_sound_run_passes_and_is_told_its_memory_and_time(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path: Path
) -> None:
    before = copy.deepcopy(tiny_encoder.state_dict())
    state = torch.get_rng_state()
    findings = check(tiny_encoder, striped, quick_config, output_dir=tmp_path)
    subjects = ["memory", "time", "preflight"]
    assert [(finding.level, finding.subject) for finding in findings] == [("note", subject) for subject in subjects]
    total, *parts = (float(number) for number in re.findall(r"\d+\.\d", findings[-1].text))
    assert len(parts) == len(CHECKS)
    assert total == pytest.approx(sum(parts), abs=0.1 * len(parts))
    assert all(torch.equal(value, before[name]) for name, value in tiny_encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", ["striped", "no such data"])
def test_a_check_leaves_no_folder_behind(
    data: str, tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path: Path
) -> None:
    images = striped if data == "striped" else data
    findings = check(tiny_encoder, images, quick_config, output_dir=tmp_path / "runs" / "first")
    assert (findings[0].level == "error") == (data != "striped")
    assert list(tmp_path.iterdir()) == []


def test_files_that_would_keep_a_bundle_from_being_whole_are_a_warning(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "notes").mkdir()
    for name in ("notes/a.txt", "train.log"):
        (tmp_path / name).write_text("mine")
    found = check(tiny_encoder, striped, quick_config, output_dir=tmp_path)[0]
    assert (found.level, found.subject) == ("warning", "output folder")
    assert "holds 'notes/a.txt' and 1 more" in found.text


def test_frozen_parameters_are_a_warning(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    tiny_encoder.get_parameter("conv1.weight").requires_grad_(False)
    findings = check(tiny_encoder, striped, quick_config)
    assert (findings[0].level, findings[0].subject) == ("warning", "encoder")
    assert "conv1.weight" in findings[0].text


def test_trying_changes_no_weight_of_the_run(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    config = quick_config.with_(method={"schedule": {"epochs": 1}, "adaptability": {"epochs": 0}})
    states = [
        harden(tiny_encoder, striped, config, evaluate=False, progress=False, preflight=tried).model.state_dict()
        for tried in (True, False)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("path", ["evaluate_result", "_save_bundle"])
def test_what_was_trained_survives_what_comes_after_it(
    path: str, tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    config = quick_config.with_(
        method={"schedule": {"epochs": 1}, "adaptability": {"epochs": 0}},
        evaluation={"attacks": ("noise",), "curve": (), "checks": False},
    )
    monkeypatch.setattr(f"genaf_sdk.pipeline.{path}", fails)
    with pytest.raises(KeyboardInterrupt):
        harden(tiny_encoder, striped, config, output_dir=tmp_path, progress=False, preflight=False)
    assert (tmp_path / "model.safetensors").is_file()
    assert (tmp_path / "report.json").is_file() == (path == "_save_bundle")
    with pytest.raises(ConfigError, match="not finished"):
        harden(tiny_encoder, striped, config, output_dir=tmp_path, progress=False, preflight=False)
    monkeypatch.undo()
    other = config.with_(evaluation={"attacks": ("noise", "pgd:steps=1")})
    result = harden(tiny_encoder, striped, other, output_dir=tmp_path, progress=False, preflight=False, resume=True)
    assert result.report is not None
    assert {score.attack for score in result.report.scores} == {"", "noise", "pgd"}
    assert (tmp_path / "model.onnx").is_file()


def test_a_failing_export_costs_its_file_and_is_named(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fails(*_: Any) -> None:
        raise ExportError("no such operator.")

    monkeypatch.setattr("genaf_sdk.export.bundle.export_onnx", fails)
    config = quick_config.with_(
        method={"schedule": {"epochs": 1}, "adaptability": {"epochs": 0}},
        evaluation={"attacks": ("noise",), "curve": (), "checks": False},
    )
    result = harden(tiny_encoder, striped, config, output_dir=tmp_path, progress=False)
    assert result.report is not None
    assert [(failure.part, failure.name) for failure in result.report.failures] == [("export", "model.onnx")]
    assert (tmp_path / "model.safetensors").is_file()
    assert json.loads((tmp_path / "report.json").read_text())["failures"]


def test_an_output_folder_is_held_by_one_run(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path: Path
) -> None:
    from genaf_sdk.locks import locked_folder

    with locked_folder(tmp_path), pytest.raises(GenafError, match="in use"):
        harden(tiny_encoder, striped, quick_config, output_dir=tmp_path, progress=False)


def test_the_command_answers_with_1_where_an_error_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output-dir", str(tmp_path)]
    assert main(["check", *output, "--json", "--evaluation.attacks", "pgdd"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert (content[0]["level"], content[0]["subject"]) == ("error", "attacks")
    assert main(["check", *output, "--data", "nowhere"]) == 1
    assert "data: " in capsys.readouterr().out
