"""Rows of a comparison: which of a file count today, and how the file is read."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import nn

import genaf_sdk.comparison as comparison_module
import genaf_sdk.evaluation.chosen as chosen_module
import genaf_sdk.trials as trials_module
from genaf_sdk import compare
from genaf_sdk.attacks.registry import ATTACKS
from genaf_sdk.attacks.uapgd import UAPGD
from genaf_sdk.comparison import seconds_of_comparison
from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.termination import Termination
from genaf_sdk.errors import AttackError, ConfigError, OutputError, RunStoppedError
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.preparation import resolved
from genaf_sdk.report.scores import Score
from genaf_sdk.rows import Comparison, ComparisonRow, append_row, read_rows
from genaf_sdk.training import Trainings
from genaf_sdk.trials import row_without_scores

QUICK = EvaluationConfig(
    attacks=("uapgd", "pgd:steps=2"), surrogate_samples=32, sample_wise_samples=10, curve=(), checks=False
)
SHORT = {"schedule": {"epochs": 1, "batch_size": 32, "encoder_learning_rate": 1e-2}}


@dataclass(frozen=True)
class Before(UAPGD):
    """An attack in the version that measured a row."""

    steps: int = 3


@dataclass(frozen=True)
class Since(UAPGD):
    """The same attack, and the same text, where the default has changed."""

    steps: int = 4


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows have clean images alone, and take no time."""

    def measure(name: str, config: HardenConfig, public: Any, data: DataSplits, *_: object) -> ComparisonRow:
        scores = (Score("hardened", "clean", "", 0.0, 100, 90, 0),)  # type: ignore[arg-type]
        return replace(row_without_scores(name, config, public, data.fingerprint), scores=scores)

    monkeypatch.setattr(comparison_module, "measure", measure)
    monkeypatch.setattr(comparison_module, "seconds_of_parts", lambda _: {"stage 1": 1.0})
    monkeypatch.setattr(comparison_module, "seconds_of_evaluation", lambda *_, **__: 1.0)


@pytest.fixture
def arguments(tiny_encoder: nn.Module, striped: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What ``compare`` and ``seconds_of_comparison`` are given."""
    monkeypatch.setattr(ATTACKS, "_items", {**ATTACKS.items(), "uapgd": Before})
    given = {"encoder": tiny_encoder, "dataset": striped, "evaluation": QUICK, "output_dir": tmp_path}
    return {**given, "methods": {"fine-tuning": resolved(None, "fine-tuning").with_(method=SHORT)}}


def measured_anew(arguments: dict[str, Any]) -> bool:
    """Return whether a comparison measures; the estimate says so beforehand, and what was in the file stays there."""
    file: Path = arguments["output_dir"] / "comparison.jsonl"
    before = file.read_bytes() if file.exists() else b""
    is_estimated = bool(seconds_of_comparison(**arguments))
    compare(**arguments, progress=False)
    after = file.read_bytes()
    assert after.startswith(before)
    assert is_estimated == (after != before)
    return is_estimated


def test_a_row_states_every_setting_of_its_attacks(arguments: Any) -> None:
    (row,) = compare(**arguments, progress=False).rows
    assert list(row.attacks) == ["uapgd", "pgd:steps=2"]
    assert row.attacks["uapgd"].items() >= {"name": "uapgd", "budget": 10 / 255, "steps": 3}.items()
    assert row.attacks["pgd:steps=2"].items() >= {"name": "pgd", "budget": 8 / 255, "steps": 2}.items()
    assert read_rows(arguments["output_dir"] / "comparison.jsonl") == [row]


@pytest.mark.usefixtures("untrained")
def test_a_row_under_an_attack_whose_default_has_changed_is_measured_anew(
    arguments: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert measured_anew(arguments)
    monkeypatch.setitem(ATTACKS._items, "uapgd", Since)
    assert measured_anew(arguments)
    assert (
        "fine-tuning, seed 0 is measured anew, as its row has: attacks.uapgd.steps was 3 and is 4. "
        "That row stays in comparison.jsonl."
    ) in caplog.messages
    assert not measured_anew(arguments)
    monkeypatch.setitem(ATTACKS._items, "uapgd", Before)
    assert not measured_anew(arguments), "the row of these settings is still there"


@pytest.mark.usefixtures("untrained")
def test_a_row_of_other_code_of_somebody_else_is_measured_anew(
    arguments: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert measured_anew(arguments)
    for module, told in ((chosen_module, "attacks.uapgd.its code"), (trials_module, "other code of its method")):
        monkeypatch.setattr(module, "code_of_others", lambda _: "as it was mended")
        assert measured_anew(arguments)
        assert told in caplog.messages[-1]
        assert not measured_anew(arguments)
    (row,) = compare(**arguments, progress=False).rows
    assert (row.code, row.attacks["uapgd"]["its code"]) == ("as it was mended", "as it was mended")


def test_a_row_states_the_code_that_the_comparing_process_sees(arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of a notebook comes to a worker without its source; its row would never be found again."""
    monkeypatch.setattr(comparison_module, "require_attacks", lambda *_: None)
    monkeypatch.setattr(trials_module, "code_of_others", lambda _: "seen")
    monkeypatch.setattr(trials_module, "_transferred", lambda *_, **__: [])
    monkeypatch.setattr(trials_module, "measure", lambda name, *_, **__: made(name))
    with ThreadPoolExecutor(1) as executor:
        (row,) = compare(**arguments, progress=False, executor=executor).rows
    assert row.code == "seen"
    assert list(row.attacks) == list(QUICK.attacks)


@pytest.mark.usefixtures("untrained")
def test_a_row_that_does_not_state_its_attacks_is_measured_anew(
    arguments: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (row,) = compare(**arguments, progress=False).rows
    file: Path = arguments["output_dir"] / "comparison.jsonl"
    of_then = json.loads(row.to_json())
    del of_then["attacks"], of_then["frozen"]
    file.write_text(json.dumps(of_then) + "\n")
    assert measured_anew(arguments)
    told = "fine-tuning, seed 0 is measured anew, as its row has: no settings of its attacks, which may have changed"
    assert [message.startswith(told) for message in caplog.messages] == [True]
    assert [each.attacks for each in read_rows(file)] == [{}, row.attacks]
    assert not measured_anew(arguments)


@pytest.mark.usefixtures("untrained")
def test_a_row_of_an_encoder_with_other_frozen_parts_or_of_other_images_is_measured_anew(
    arguments: Any, striped: DataSplits, caplog: pytest.LogCaptureFixture
) -> None:
    assert measured_anew(arguments)
    next(arguments["encoder"].parameters()).requires_grad_(requires_grad=False)
    assert measured_anew(arguments)
    assert "as its row has: other parts of the encoder frozen." in caplog.text
    arguments["dataset"] = replace(striped, test=striped.validation)
    assert measured_anew(arguments)
    assert "as its row has: other images." in caplog.text


def test_an_attack_that_is_unknown_is_refused_before_anything_is_timed(arguments: Any) -> None:
    arguments["evaluation"] = QUICK.with_(attacks=("uapdg",))
    with pytest.raises(AttackError, match="uapdg"):
        seconds_of_comparison(**arguments)


def made(method: str, correct: int = 90, **stated: Any) -> ComparisonRow:
    clean = Score("hardened", "clean", "", 0.0, 100, correct, 0)  # type: ignore[arg-type]
    attacked = Score("hardened", "transfer", "uapgd", 0.1, 100, correct - 5, 0, perturbation="transfer-uapgd")  # type: ignore[arg-type]
    return ComparisonRow(method, 0, {}, "", (clean, attacked), 1.0, 1.0, **stated)


def test_a_table_names_rows_that_were_measured_under_other_attacks() -> None:
    then, now = ({"uapgd": {"name": "uapgd", "steps": steps}} for steps in (3, 4))
    fewer = replace(made("c", attacks=now), config={"evaluation": {"surrogate_samples": 7}})
    table = Comparison([made("a", attacks=then), fewer, made("b", attacks=now), made("d", attacks=now)]).markdown()
    told = "Not measured under the same attacks as"
    assert table.endswith(f"\n\n{told} d, seed 0: a, seed 0; c, seed 0\n")
    assert told not in Comparison([made("a"), made("b")]).markdown()
    silent = Comparison([made("a", attacks=now), made("older")]).markdown()
    assert told not in silent, "of a row that states nothing nobody can tell"
    assert Comparison([]).markdown().startswith("| method | ")


def test_a_method_may_have_any_name(tmp_path: Path) -> None:
    """A bar would end a cell of the table, and dollars would be mathematics, which this is none of."""
    comparison = Comparison([made("loss | $\\frac$ é", 50), made("plain", 90)])
    comparison.save(tmp_path)
    header, _, line, *_ = (tmp_path / "comparison.md").read_text("utf-8").splitlines()
    assert line.startswith("| loss \\| $\\frac$ é | 50.0 |")
    assert line.replace("\\|", "").count("|") == header.count("|")
    append_row(tmp_path / "comparison.jsonl", comparison.rows[0])
    assert read_rows(tmp_path / "comparison.jsonl") == comparison.rows[:1]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nothing", "It is no JSON"),
        ("3", "is 3"),
        ("\udcff", "It is no JSON"),
        ('{"method": "a"}', "lacks 'seed'"),
        (made("a").to_json().replace('"n": 100', '"n": 10'), "are counted of 10 images"),
        (made("a").to_json().replace('"config": {}', '"config": 3'), "config is 3"),
    ],
)
def test_a_damaged_line_is_named(line: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    text = f"{made('whole').to_json()}\n{line}\n"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(OutputError, match=rf"rows\.jsonl is damaged in line 2\..*{re.escape(problem)}"):
        read_rows(file)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be read: Is a directory"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("methods", "seeds", "told"),
    [
        ("fast", (0,), r"methods is 'fast'.*a list"),
        (["fast"], 0, r"seeds is 0\..*a list"),
        (["fast"], 3, r"seeds is 3\..*a list"),
        ([HardenConfig()], (0,), r"A method is HardenConfig.*as a mapping"),
        ({"mine": 3}, (0,), "config is a int"),
    ],
)
def test_methods_and_seeds_that_are_none_are_refused(methods: Any, seeds: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        compare("bundled:simclr-cifar10", "digits", methods, seeds=seeds)


def test_results_among_the_pictures_are_none_of_them_elsewhere_either(
    arguments: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker reads the images itself, and has to leave out the folder of results as the comparing process does."""
    for index in range(30):
        path = tmp_path / "pictures" / ("red", "blue")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (index, 0, 250 * (index % 2))).save(path)
    monkeypatch.setattr(trials_module, "measure", lambda name, *_, **__: made(name))
    monkeypatch.setattr(trials_module, "_transferred", lambda *_, **__: [])
    arguments |= {"dataset": tmp_path / "pictures", "output_dir": tmp_path / "pictures" / "results"}
    with ThreadPoolExecutor(1) as executor:
        comparison = compare(**arguments, progress=False, executor=executor)
    assert comparison.failed == []
    assert comparison.methods == ["fine-tuning"]


@pytest.mark.usefixtures("untrained")
def test_a_comparison_that_is_stopped_says_how_it_goes_on(arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with resume=True, which a run without comparison would take."""

    def stop(*_: object, **__: object) -> None:
        raise Termination().stopped()

    monkeypatch.setattr(comparison_module, "measure", trials_module.measure)
    monkeypatch.setattr(trials_module, "_transferred", lambda *_: [])
    monkeypatch.setattr(Trainings, "stages", stop)
    endings = "progress was saved. To do: start the same", "nothing was saved. To do: pass output_dir"
    for folder, ending in zip((arguments["output_dir"], None), endings, strict=True):
        told = f"fine-tuning, seed 0 was stopped by SIGTERM; {ending}"
        with pytest.raises(RunStoppedError, match=re.escape(told)):
            compare(**{**arguments, "output_dir": folder}, progress=False)
