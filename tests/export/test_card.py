"""The card as the Hub reads it: its client's own checks, offline, and the evaluation results in both of its forms."""

from __future__ import annotations

import copy
import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from export_helpers import Made
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData
from huggingface_hub._eval_results import parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id
from PIL import Image

from genaf_sdk.export.card import ModelFacts, card_metadata, eval_results, model_card
from genaf_sdk.export.serve.images import decode
from genaf_sdk.inputs.images import Interpolation
from genaf_sdk.report.robustness import RobustnessReport

ENCODER = "timm/vit_tiny_patch16_224.augreg_in21k"


@pytest.fixture
def report(made: Made) -> RobustnessReport:
    """The report of a run on a data set of the Hub."""
    found = copy.copy(made.report)
    found.data = replace(found.data, name="hub:org/pictures")
    return found


@pytest.fixture
def text(made: Made, report: RobustnessReport) -> str:
    return model_card(replace(ModelFacts.of(made.model), encoder=ENCODER), report, license_id="apache-2.0")


def test_the_metadata_are_what_the_client_takes_and_come_back_unchanged(text: str) -> None:
    stated = card_metadata(text)
    known = {*inspect.signature(ModelCardData).parameters, "model-index"}
    assert set(stated) <= known, "nothing that the Hub does not know"
    data = ModelCard(text, ignore_metadata_errors=False).data
    again = yaml.safe_load(data.to_yaml())
    assert again == stated
    for name in (data.base_model, *data.datasets):
        validate_repo_id(name)
    assert len(data.tags) == len(set(data.tags))
    assert all(isinstance(tag, str) for tag in data.tags)


def test_a_card_names_the_method_that_made_the_model(made: Made, report: RobustnessReport) -> None:
    """PGD-AT, say, is not Gen-AF, whose tag and paper would lend it what it has not."""
    facts, config = ModelFacts.of(made.model), report.config
    for method, said in ((None, "fine-tuned."), ("pgd-at", "with the method pgd-at."), ("gen-af", "with Gen-AF (Zhou")):
        report.config = None if method is None else {**(config or {}), "method": {"name": method}}
        text = model_card(facts, report)
        assert said in text
        assert ("Gen-AF" in text) == ("gen-af" in card_metadata(text)["tags"]) == (method == "gen-af")
    assert "Gen-AF" not in model_card(facts, None)


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_code_for_pictures_makes_what_the_server_makes(
    channels: int, interpolation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turned as the camera says, on white where it is transparent, resized with the same filter."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 4), np.uint8)
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(noise).save(tmp_path / "picture.png", exif=turned)
    card = model_card(ModelFacts("x", channels, (9, 8), ("a", "b"), interpolation, "0"), None)
    code = re.search(r"```python\n(.*?)session = ", card, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(code[1].replace("import onnxruntime\n", ""), names)
    served = decode((tmp_path / "picture.png").read_bytes(), (channels, 9, 8), interpolation=interpolation)
    expected = served.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    assert names["pixels"].dtype == np.float32
    np.testing.assert_array_equal(names["pixels"], expected)


def test_models_of_other_channels_take_arrays() -> None:
    card = model_card(ModelFacts("x", 2, (9, 8), ("a", "b"), "bilinear", "0"), None)
    assert 'np.load("image.npy").astype(np.float32)[None]  # (2, 9, 8)' in card
    assert "Image" not in card


def test_the_index_of_results_is_whole(text: str, report: RobustnessReport) -> None:
    name, results = model_index_to_eval_results(card_metadata(text)["model-index"])
    assert name == "Hardened image classifier"
    assert len(results) == len(report.rows())
    for result, score in zip(results, report.rows(), strict=True):
        assert isinstance(result, EvalResult)
        assert (result.dataset_type, result.dataset_split, result.metric_type) == ("org/pictures", "test", "accuracy")
        assert result.metric_value == pytest.approx(score.accuracy, abs=1e-6)


@pytest.mark.parametrize("name", ["hub:org/pictures", "hub:org/pictures:small", f"hub:org/pictures@{'0' * 40}"])
def test_the_newest_form_is_read_by_the_clients_own_parser(name: str, report: RobustnessReport) -> None:
    report.data = replace(report.data, name=name)
    results = eval_results(report)
    assert results is not None
    entries = parse_eval_result_entries(yaml.safe_load(results))
    assert [entry.value for entry in entries] == pytest.approx([score.accuracy for score in report.rows()], abs=1e-6)
    for entry in entries:
        assert isinstance(entry, EvalResultEntry)
        validate_repo_id(entry.dataset_id)
        assert entry.dataset_id == "org/pictures"
        assert "n = " in str(entry.notes)
    assert len({(entry.task_id, entry.notes) for entry in entries}) == len(entries)


@pytest.mark.parametrize("name", ["digits", "pictures", "org/pictures", "/home/me/pictures"])
def test_other_data_is_not_called_a_data_set_of_the_hub(name: str, made: Made, report: RobustnessReport) -> None:
    report.data = replace(report.data, name=name)
    assert eval_results(report) is None, "this form knows no other data"
    card = ModelCard(model_card(ModelFacts.of(made.model), report), ignore_metadata_errors=False)
    assert card.data.datasets is None
    assert {(each.dataset_type, each.dataset_name) for each in card.data.eval_results} == {("unknown", name)}
