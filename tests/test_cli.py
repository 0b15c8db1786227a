from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genaf_sdk.attacks.uapgd import UAPGD
from genaf_sdk.cli import (
    CHECK_FAILED,
    COMMANDS,
    DONE,
    INTERRUPTED,
    STOPPED,
    UNEXPECTED,
    USAGE_ERROR,
    _command,
    listing,
    main,
)
from genaf_sdk.cli.settings import starting_evaluation, starting_settings
from genaf_sdk.errors import ConfigError, RunStoppedError
from genaf_sdk.evaluation.scoring import Scoring
from genaf_sdk.evaluation.settings import COMPARED, EvaluationConfig
from genaf_sdk.export.integrity import seal
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.methods import PGD, presets

QUICK = [
    *("--baseline.epochs", "1", "--method.schedule.epochs", "2"),
    *("--method.schedule.encoder-learning-rate", "3e-3", "--method.adaptability.probe-epochs", "0"),
    *("--method.adaptability.epochs", "1", "--method.adaptability.interpolations", "1"),
    *("--method.adaptability.sensitivity.samples", "64", "--method.adaptability.sensitivity.steps", "1"),
    *("--evaluation.attacks", "uapgd:steps=5", "pgd:steps=5", "--evaluation.surrogate-samples", "64"),
    *("--evaluation.sample-wise-samples", "20", "--evaluation.curve"),
]


def test_the_demo_path_at_reduced_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    proof = ["--evaluation.certificate.patch", "0.03", "--evaluation.certificate.masks", "2"]
    assert main(["demo", "--output-dir", str(folder), *QUICK, *proof, "--evaluation.certificate.samples", "100"]) == 0
    printed = capsys.readouterr().out
    assert "transfer" in printed
    assert f"genaf verify {folder}" in " ".join(printed.split())
    assert "Largest relative logit difference" in printed
    report = json.loads((folder / "report.json").read_text())
    assert report["model"]["encoder"] == "bundled:simclr-cifar10"
    assert report["data"]["name"] == "digits"

    assert main(["verify", str(folder), "--json"]) == DONE
    verified = json.loads(capsys.readouterr().out)
    assert verified["agrees"]
    replayed = {item["what"] for item in verified["items"] if item["outcome"] == "replayed"}
    assert {"hardened clean", "hardened noise noise", "hardened adaptive uapgd"} <= replayed
    assert "certificate" in replayed
    assert main(["certify", str(folder), "--patch", "0.03", "--masks", "2", "--samples", "100", "--json"]) == DONE
    captured = capsys.readouterr()
    certified = json.loads(captured.out)
    assert re.search(r"The certificates take up to about \d+ (s|min) here\. Shorter:", captured.err)
    assert "model.onnx" in certified["model"]
    assert certified["patch"] == [6, 6]
    assert abs(certified["certified"] - report["certificate"]["certified"]) <= 1
    assert main(["report", str(folder), "--json"]) == DONE
    assert json.loads(capsys.readouterr().out) == report
    (folder / "report.html").write_text("")
    assert main(["report", str(folder)]) == DONE
    page = (folder / "report.html").read_bytes()
    listed = json.loads((folder / "checksums.json").read_text())["sha256"]
    assert listed["report.html"] == hashlib.sha256(page).hexdigest()
    assert b"</html>" in page
    capsys.readouterr()
    assert main(["report", str(folder), "--markdown"]) == DONE
    summary = capsys.readouterr().out
    assert summary.startswith("## Robustness")
    assert all(line.endswith("|") for line in summary.splitlines() if line.startswith("|")), "a row is one line"
    assert main(["report", str(folder), "--output", str(folder / "other.html")]) == USAGE_ERROR
    for name in ("again.onnx", "delta.safetensors", "page.html"):
        (tmp_path / name).write_text("of before")
    assert main(["report", str(folder), "--output", str(tmp_path / "page.html"), "--overwrite"]) == DONE
    assert "</html>" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert main(["export", str(folder), str(tmp_path / "again.onnx"), "--overwrite"]) == DONE
    assert (tmp_path / "again.onnx").stat().st_size > 100_000
    options = ["--samples", "32", "--output", str(tmp_path / "delta.safetensors"), "--overwrite"]
    assert main(["attack", "uapgd:steps=5", "--encoder", str(folder), *options]) == DONE
    assert Perturbation.load(tmp_path / "delta.safetensors").key.attack == "uapgd"
    assert re.search(r"uapgd takes about \d+ (s|min) here\. Shorter:", capsys.readouterr().err)
    evaluation = ["--attacks", "uapgd:steps=5", "--surrogate-samples", "32", "--curve", "--output-dir"]
    assert main(["evaluate", str(folder), *evaluation, str(tmp_path / "second")]) == 0
    captured = capsys.readouterr()
    assert re.search(r"The evaluation takes about \d+ (s|min) here\. Shorter:", captured.err)
    assert captured.out.rstrip().endswith("second.")
    assert json.loads((tmp_path / "second" / "report.json").read_text())["scores"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scoring, "universal", killed)
        with pytest.raises(KilledError):
            main(["evaluate", str(folder), *evaluation, str(tmp_path / "third")])
        patch.undo()
        patch.setattr(UAPGD, "tries", lambda *_, **__: pytest.fail("crafted again"))
        assert main(["evaluate", str(folder), *evaluation, str(tmp_path / "third")]) == DONE
    assert {path.name for path in (tmp_path / "third").iterdir()} == {"report.json", "report.html", "perturbations"}
    capsys.readouterr()

    # A report that claims what the file does not hold is found out.
    for row in report["scores"]:
        row["correct"] = 0 if row["column"] == "adaptive" else row["correct"]
    (folder / "report.json").write_text(json.dumps(report))
    assert main(["verify", str(folder)]) == USAGE_ERROR
    assert "report.json" in capsys.readouterr().err
    seal(folder)
    assert main(["verify", str(folder)]) == CHECK_FAILED
    assert "NO" in capsys.readouterr().out


class KilledError(BaseException):
    """Ends a command as abruptly as an exception can."""


def killed(*_: object, **__: object) -> None:
    raise KilledError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["harden", "--data", "nowhere"], "nowhere"),
        (["harden", "--encoder", "torchvision:resnet81"], "torchvision:resnet"),
        (["harden", "--preset", "papr"], "paper"),
        (["harden", "--head", "mpl"], "To do: try mlp."),
        (["harden", "--log-with", "tensorbord"], "To do: try tensorboard."),
        (["harden", "--method.schedule.epochs", "0"], "at least 1"),
        (["harden", "--config", "missing.json"], "missing.json cannot be read"),
        (["attack", "uapg"], "uapgd"),
        (["attack", "pgd"], "whole models"),
        (["attack", "uapgd", "--samples", "0"], "samples is 0. Expected: a whole number of at least 1"),
        (["compare", "--workers", "0"], "workers is 0. Expected: a whole number of at least 1"),
        (["evaluate", "nowhere"], "There is no folder 'nowhere' here."),
        (["verify", "nowhere"], "There is no folder nowhere."),
    ],
)
def test_bad_input_ends_with_2_and_says_what_would_work(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output-dir", str(tmp_path)] if arguments[0] == "harden" else []
    assert main([*arguments, *output]) == USAGE_ERROR
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "stated",
    [
        "baseline: {encoder_learning_rate: 2e-4}\nmethod:\n  schedule: {epochs: 7}\n  against: {epsilon: 4/255}\n",
        "undefended_encoder_learning_rate: 2e-4\ndual_track:\n  epochs: 7\n  adversary: {budget: 4/255}\n",
    ],
    ids=["today", "earlier versions"],
)
def test_settings_come_from_a_preset_then_a_file_then_options(
    stated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"preset: paper\ndata: pictures\noutput_dir: out\n{stated}")
    settings, run = starting_settings(["harden", "--config", str(path)])
    assert run == {"data": "pictures", "output_dir": Path("out")}
    assert settings.method.schedule.epochs == 7
    of_the_paper = PGD(epsilon=8 / 255, step_size=2 / 255, steps=10, ramp=0.0)
    assert settings.method.against == of_the_paper.with_(epsilon=4 / 255)
    assert settings.baseline.encoder_learning_rate == 2e-4
    with pytest.raises(SystemExit) as stopped:
        main(["harden", "--config", str(path), "--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "(default: 7)" in shown
    assert "(default: 4/255)" in shown
    assert "(default: pictures)" in shown


def test_the_settings_of_a_report_can_be_run_again(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"schema": 1, "config": {"seed": 5}}))
    assert starting_settings(["demo", "--config", str(path)])[0].seed == 5


@pytest.mark.parametrize(
    ("encoder", "data", "missing"),
    [("torchvision:resnet18", "digits", "encoder"), ("bundled:simclr-cifar10", "pictures", "data")],
)
def test_the_report_of_another_run_wants_its_encoder_and_data_named(
    tmp_path: Path, encoder: str, data: str, missing: str
) -> None:
    path = tmp_path / "report.json"
    content = {"schema": 1, "config": {"seed": 5}, "provenance": {"encoder": encoder}, "data": {"name": data}}
    path.write_text(json.dumps(content))
    arguments = ["harden", "--config", str(path)]
    with pytest.raises(ConfigError, match=f"the {missing} .* --{missing} beside it"):
        starting_settings(arguments)
    assert starting_settings([*arguments, f"--{missing}", "mine"])[0].seed == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1", "list"),
        ("{schema: 1, scores: []}", "a report without settings"),
        ("sed: 1", "seed"),
        ("seed: high", "seed"),
        ("a: [", "cannot be read"),
        ("a: &a [*a]", "cannot be read"),
        ("evaluation: {curve: [2]}", r"use for example \[4/255, 10/255, 16/255\], the default"),
        ("preset: papr", "paper"),
    ],
)
def test_a_file_of_settings_that_cannot_be_used_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        starting_settings(["harden", "--config", str(path)])


@pytest.mark.parametrize("content", ["evaluated: {attacks: [pgd]}", "{schema: 1, scores: []}"])
def test_an_evaluation_passes_over_no_settings(tmp_path: Path, content: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"'evaluated'|without settings"):
        starting_evaluation(["evaluate", "model", "--config", str(path)], EvaluationConfig())


def test_what_a_file_does_not_state_of_an_evaluation_is_as_in_the_command(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("evaluation: {perturbation_budget: 6/255, curve: [], checks: false}")
    stated = ["--config", str(path)]
    assert starting_evaluation(["compare", *stated], COMPARED) == COMPARED.with_(perturbation_budget=6 / 255)
    evaluated = starting_evaluation(["evaluate", "model", *stated], EvaluationConfig())
    assert evaluated == EvaluationConfig(perturbation_budget=6 / 255, curve=(), checks=False)
    path.write_text("evaluation: [pgd]")
    with pytest.raises(ConfigError, match=r"evaluation is \['pgd'\]"):
        starting_evaluation(["compare", *stated], COMPARED)


def test_a_comparison_takes_what_a_file_states_of_encoder_images_and_settings(tmp_path: Path) -> None:
    """On others than these it would look like an answer."""

    def started(*arguments: str) -> Any:
        return _command("compare", ["compare", "--config", str(path), *arguments])[1]["default"]

    path = tmp_path / "settings.yaml"
    path.write_text(
        "{encoder: mine, data: pictures, preset: fast, head: linear, tuning: {lora_rank: 2}, "
        "loading: {skip_corrupt: true}, machine: {micro_batch_size: 8}, evaluation: {attacks: [pgd]}}"
    )
    found = started()
    assert (found.encoder, found.data, found.head, found.tuning.lora_rank) == ("mine", "pictures", "linear", 2)
    assert (found.loading.skip_corrupt, found.machine.micro_batch_size) == (True, 8)
    assert found.settings == COMPARED.with_(attacks=("pgd",))
    report = {"schema": 1, "config": {}, "scores": [], "provenance": {"encoder": "mine"}, "data": {"name": "digits"}}
    path.write_text(json.dumps(report))
    with pytest.raises(ConfigError, match="report of a run with the encoder 'mine'"):
        started()
    assert started("--encoder", "mine").head == "mlp"


def test_budgets_may_be_written_as_fractions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    delta = tmp_path / "delta.safetensors"
    given = ["attack", "noise", "--budget", "6/255", "--samples", "4", "--output", str(delta), "--json"]
    assert main(given) == DONE
    assert json.loads(capsys.readouterr().out)["budget"] == pytest.approx(6 / 255)


@pytest.mark.parametrize("command", ["encoders", "data", "attacks"])
def test_lists_are_there_for_machines(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--json"]) == DONE
    assert len(json.loads(capsys.readouterr().out)) >= 2


def test_every_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def ends_with(error: BaseException) -> tuple[int, str, str]:
        def run(_: object) -> int:
            raise error

        monkeypatch.setattr(listing.Data, "__call__", run)
        code = main(["data", "--json"])
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    code, out, err = ends_with(ConfigError("x is 1.", expected="2", remedy="set x"))
    assert code == USAGE_ERROR == 2
    assert json.loads(out)["error"]["remedy"] == "set x"
    assert err == "genaf: x is 1. Expected: 2. To do: set x."
    code, out, err = ends_with(RuntimeError("deep inside"))
    assert code == UNEXPECTED == 3
    assert json.loads(out)["error"]["type"] == "RuntimeError"
    assert "deep inside" in err
    assert "--debug" in err
    assert "Traceback" not in err
    assert main(["data", "--debug"]) == UNEXPECTED
    assert "Traceback" in capsys.readouterr().err
    code, out, err = ends_with(RunStoppedError("Stopped by SIGTERM; progress was saved."))
    assert code == STOPPED == 143
    assert json.loads(out)["error"]["type"] == "RunStoppedError"
    code, _, err = ends_with(KeyboardInterrupt())
    assert code == INTERRUPTED == 130
    assert err == "genaf: interrupted"


def test_the_reader_of_a_pipe_may_leave_early() -> None:
    command = f"{sys.executable} -m genaf_sdk attacks | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (DONE, "")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_can_complete_commands_and_settings(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--tyro-print-completion", shell])
    assert not stopped.value.code
    script = capsys.readouterr().out
    assert "demo" in script
    assert "method.schedule.epochs" in script


def test_reports_are_shown_anew_and_ids_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encoders", "bundled"]) == 0
    assert "bundled:simclr-cifar10" in capsys.readouterr().out
    assert main(["data"]) == 0
    assert "digits" in capsys.readouterr().out
    assert main(["attacks"]) == 0
    assert "uapgd" in capsys.readouterr().out
    assert main(["report", str(tmp_path)]) == USAGE_ERROR


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "BUNDLE", "--output-dir", "BUNDLE"],
        ["evaluate", "BUNDLE", "--output-dir", "BUNDLE/second"],
        ["attack", "uapgd", "--output", "BUNDLE/perturbation.safetensors"],
        ["export", "BUNDLE", "BUNDLE/again.onnx"],
        ["export", "BUNDLE", "--triton", "BUNDLE/repository"],
        ["push", "BUNDLE", "ORG/NAME", "--dry-run", "BUNDLE/space"],
    ],
)
def test_nothing_is_written_into_a_bundle(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "labels.json").write_text("[]")
    seal(bundle)
    assert main([argument.replace("BUNDLE", str(bundle)) for argument in arguments]) == USAGE_ERROR
    assert "lists and nothing else. Expected: a place outside" in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in bundle.rglob("*")) == ["checksums.json", "labels.json"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["attack", "uapgd", "--output", "FILE"],
        ["export", "nowhere", "FILE"],
        ["export", "nowhere", "--kserve", "FILE", "--image", "registry.example/digits:1"],
    ],
)
def test_a_file_is_replaced_only_where_that_is_asked_for(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("of somebody else")
    assert main([str(file) if argument == "FILE" else argument for argument in arguments]) == USAGE_ERROR
    assert "exists already" in capsys.readouterr().err
    assert file.read_text() == "of somebody else"


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "no-such-model", "--output-dir", "runs/new"),
        ("attack", "uapgd", "--output", "runs/new/one.safetensors", "--encoder", "no-such-encoder"),
        ("export", "no-such-model", "runs/new/model.onnx"),
        ("export", "no-such-model", "--triton", "runs/new/repository", "--transformers", "runs/other/model"),
    ],
)
def test_an_error_before_anything_is_written_leaves_no_empty_folder(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(list(command)) == USAGE_ERROR
    assert list(tmp_path.iterdir()) == []


def test_encoders_are_found_in_any_case_and_said_to_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encoders", "SimCLR", "--json"]) == DONE
    assert [entry["id"] for entry in json.loads(capsys.readouterr().out)] == ["bundled:simclr-cifar10"]
    assert main(["encoders", "reznet"]) == DONE
    assert "No id contains 'reznet'." in capsys.readouterr().err


@pytest.mark.parametrize("command", ["harden", "check", "evaluate", "export"])
def test_help_is_plain_text_in_whole_paragraphs(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert "``" not in text
    if command == "harden":
        said = " ".join(text.replace("│", " ").split())
        assert "Global batch size, across all processes." in said
        assert re.search(r"need pairs\. `auto` is +128", said)
        assert not re.search(r"pairs\. `auto` is +│\n", text), "the line goes on where the code's ends"


@pytest.mark.parametrize("command", [*COMMANDS, *(f"harden --preset {name}" for name in presets())])
def test_every_option_says_what_it_is(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    options: dict[str, str] = {}
    name, text = "", capsys.readouterr().out
    with_settings = ("demo", "harden", "check", "compare", "evaluate")  # of which None is a value
    if command.partition(" ")[0] not in with_settings:
        assert "None" not in text, "what happens without an option is said in words"
    for line in text.splitlines():
        option = re.fullmatch(r"(?:│ |  )(-{1,2}[a-z].*?)(?: {2,}(.*?))?[ │]*", line)
        name = option[1] if option else name
        options[name] = options.get(name, "") + ((option[2] or "") if option else line.strip(" │╭╮╰╯─"))
    assert "-h, --help" in options
    assert [name for name, text in options.items() if not re.sub(r"\(default: .*?\)", "", text).strip()] == []


def test_a_misspelt_command_is_answered_with_all_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["srve", "demo-output", "--open"]) == USAGE_ERROR
    said = " ".join(capsys.readouterr().err.split())
    assert f"There is no command 'srve'. Expected: one of {', '.join(COMMANDS)}. To do: try serve" in said


@pytest.mark.parametrize("command", ["serve", "bench-serve"])
def test_serving_asks_for_a_bundle(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command])
    assert stopped.value.code == 2
    assert f"genaf {command}: error: the following arguments are required" in capsys.readouterr().err
