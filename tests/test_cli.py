from __future__ import annotations

import json
from pathlib import Path

import pytest

from genaf_sdk.cli import FAILED, UNUSABLE, main

QUICK = [
    *("--undefended-epochs", "1", "--dual-track.epochs", "2"),
    *("--adaptability.epochs", "1", "--adaptability.interpolations", "1"),
    *("--sensitivity.samples", "64", "--sensitivity.steps", "1"),
    *("--evaluation.attacks", "uapgd:steps=5", "pgd:steps=5", "--evaluation.surrogate-samples", "64"),
    *("--evaluation.sample-wise-samples", "20", "--evaluation.curve"),
]


def test_the_demo_path_at_reduced_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    assert main(["harden", "--output-dir", str(folder), *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "transfer" in printed
    assert "logits of ONNX and torch differ" in printed
    report = json.loads((folder / "report.json").read_text())
    assert report["model"]["encoder"] == "bundled:simclr-cifar10"
    assert report["data"]["name"] == "digits"

    assert main(["verify", str(folder)]) == 0
    assert main(["export", str(folder), str(tmp_path / "again.onnx")]) == 0
    assert (tmp_path / "again.onnx").stat().st_size > 100_000
    perturbation = tmp_path / "delta.safetensors"
    assert (
        main(["attack", "uapgd:steps=5", "--encoder", str(folder), "--samples", "32", "--output", str(perturbation)])
        == 0
    )
    evaluation = ["--attacks", "uapgd:steps=5", "--surrogate-samples", "32", "--curve", "--output-dir"]
    assert main(["evaluate", str(folder), *evaluation, str(tmp_path / "second")]) == 0
    assert json.loads((tmp_path / "second" / "report.json").read_text())["scores"]

    # A report that claims what the file does not hold is found out.
    for row in report["scores"]:
        row["correct"] = 0 if row["column"] == "adaptive" else row["correct"]
    (folder / "report.json").write_text(json.dumps(report))
    assert main(["verify", str(folder)]) == FAILED
    assert "NO" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["harden", "--data", "nowhere"], "nowhere"),
        (["harden", "--encoder", "torchvision:resnet81"], "torchvision:resnet"),
        (["harden", "--preset", "papr"], "paper"),
        (["harden", "--dual-track.epochs", "0"], "at least 1"),
        (["harden", "--config", "missing.json"], "missing.json"),
        (["attack", "uapg"], "uapgd"),
        (["attack", "pgd"], "whole models"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_would_work(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output-dir", str(tmp_path)] if arguments[0] == "harden" else []
    assert main([*arguments, *output]) == UNUSABLE
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error


def test_settings_come_from_a_file_and_can_be_overridden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"dual_track": {"epochs": 7}}))
    with pytest.raises(SystemExit) as stopped:
        main(["harden", "--config", str(path), "--help"])
    assert stopped.value.code == 0
    assert "7" in capsys.readouterr().out


def test_reports_are_shown_anew_and_ids_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encoders", "bundled"]) == 0
    assert "bundled:simclr-cifar10" in capsys.readouterr().out
    assert main(["data"]) == 0
    assert "digits" in capsys.readouterr().out
    assert main(["attacks"]) == 0
    assert "uapgd" in capsys.readouterr().out
    assert main(["report", str(tmp_path)]) == UNUSABLE
