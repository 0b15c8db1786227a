"""What a bundle's report says is proven, and of corrupted images, is found again by its ONNX file, or found out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import cast

import onnx
import pytest
import torch
from export_helpers import Made

from genaf_sdk.data import DataSplits
from genaf_sdk.data.sampling import Sample
from genaf_sdk.errors import ExportError
from genaf_sdk.evaluation.certificates import DoubleMasking, certify
from genaf_sdk.evaluation.corrupted import corruption_section
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.evaluation.settings import CertificateConfig
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.ties import check_ties
from genaf_sdk.inputs.masks import MaskSet
from genaf_sdk.remeasured import replayed_beside
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Role

FILL = (0.3, 0.3, 0.3)


@pytest.fixture(scope="module")
def proven(made: Made, sound: Path, digits: DataSplits) -> RobustnessReport:
    report, sample = copy.deepcopy(made.report), Sample.draw(digits.test, None, seed=made.report.seed)
    config, color = CertificateConfig(patch=0.02, masks=2, samples=100), OnnxModel(sound).mean_color
    report.certificate = certify(made.model, sample, config, color)
    report.corruptions = corruption_section([EvaluatedModel.of(made.model, Role.HARDENED)], sample, 100)
    return report


def test_certificates_and_corruptions_are_found_again(
    proven: RobustnessReport, sound: Path, digits: DataSplits
) -> None:
    items = replayed_beside(sound, proven, digits)
    assert len(items) == 16
    assert all(item.agrees for item in items), [item for item in items if not item.agrees]


def test_the_color_of_the_masks_is_that_of_the_file(
    proven: RobustnessReport, sound: Path, digits: DataSplits, tmp_path: Path
) -> None:
    """Whichever images the verifier has."""
    assert proven.certificate is not None
    fill = tuple(proven.certificate.fill)
    images = DataSplits(digits.validation, digits.validation, digits.validation, digits.class_names)
    graph = onnx.load(sound / "model.onnx")
    stated = {entry.key: entry.value for entry in graph.metadata_props}
    for color, agrees in ((fill, True), ((*fill[:-1], fill[-1] + 1e-4), False), ((), None)):
        onnx.helper.set_model_props(graph, stated | {"mean_color": json.dumps(color)})
        onnx.save(graph, tmp_path / "model.onnx")
        (item,) = (each for each in replayed_beside(tmp_path, proven, images) if "color" in each.what)
        assert item.agrees is agrees, item


@pytest.mark.parametrize(
    "claim",
    [
        *("certified", "smaller masks", "few images", "color"),
        *("corruption", "corruption by strength", "unknown corruption", "no corruption", "one corruption twice"),
    ],
)
def test_a_false_claim_is_found_out(claim: str, proven: RobustnessReport, sound: Path, digits: DataSplits) -> None:
    report = copy.deepcopy(proven)
    if "corruption" in claim:
        report.certificate = None
        assert report.corruptions is not None
        row, total = report.corruptions.rows[3], sum(report.corruptions.rows[3].correct)
        if claim == "unknown corruption":
            row.kind = "sunshine"
        elif claim == "no corruption":
            report.corruptions.rows = []
        elif claim == "one corruption twice":
            report.corruptions.rows.append(row)
        elif "strength" in claim:
            row.correct = [total // 5] * 4 + [total - 4 * (total // 5)]
        else:
            row.correct = [100] * 5
        assert [item.agrees for item in replayed_beside(sound, report, digits)].count(False) == 1
        return
    report.corruptions = None
    assert report.certificate is not None
    if claim == "certified":
        report.certificate.certified = report.certificate.answered = 100
    elif claim == "smaller masks":
        report.certificate.patch = (9, 9)
    elif claim == "color":
        report.certificate.fill[0] += 1e-4
    else:
        sample, graph = Sample.draw(digits.test, None, seed=report.seed), OnnxModel(sound)
        config = CertificateConfig(patch=0.02, masks=2, samples=9)
        report.certificate = certify(graph, sample, config, graph.mean_color)
    (found,) = (item.found for item in replayed_beside(sound, report, digits) if item.agrees is False)
    assert ("n is 9; at least 100 are wanted" in found) == (claim == "few images")


def test_one_huge_answer_hides_no_other() -> None:
    """Weights and graph are compared image by image: one whose logits are huge would else excuse all others."""
    images = torch.eye(3)
    said = torch.tensor([[1e6, 0.0], [0.1, 0.9], [0.2, 0.8]])

    def weights(_: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1e6, 0.0], [0.9, 0.1], [0.8, 0.2]])

    graphs = cast("dict[str, OnnxModel]", {"model.onnx": lambda _: said})
    (item,) = check_ties(graphs, lambda: weights, images, named=True)
    assert item.agrees is False


def test_on_other_images_nothing_is_known(proven: RobustnessReport, sound: Path, digits: DataSplits) -> None:
    other = DataSplits(digits.validation, digits.validation, digits.validation, digits.class_names)
    color, *rest = replayed_beside(sound, proven, other)
    assert color.agrees
    assert {item.agrees for item in rest} == {None}


def test_an_onnx_file_is_certified_as_the_module_it_was_made_from(made: Made, sound: Path, digits: DataSplits) -> None:
    pixels, labels = digits.test.sample(12, seed=0)
    defense = DoubleMasking(MaskSet.for_area((16, 16), 0.02, 3), FILL)
    graph = OnnxModel(sound)
    assert torch.equal(defense.certified(graph, pixels, labels), defense.certified(made.model, pixels, labels))
    assert torch.equal(defense.answer(graph, pixels), defense.answer(made.model, pixels))


def test_a_file_says_how_images_are_loaded_for_it(sound: Path) -> None:
    graph = OnnxModel(sound)
    assert graph.image_options == {"channels": 3, "image_size": (16, 16), "interpolation": "bilinear"}
    graph.metadata = {}
    assert graph.image_options == {"channels": 3, "image_size": (16, 16)}
    graph.metadata = {"image_size": "[null, 16]"}
    with pytest.raises(ExportError, match="does not say which images"):
        _ = graph.image_options
