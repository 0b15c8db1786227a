"""Served certificates: the masks, answers and proofs of `genaf certify`, over HTTP, gRPC and for pictures."""

from __future__ import annotations

import io
import json
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from tiny import AREA, COUNT, FILL, NAMES, SIZE, blots
from tritonclient.utils import InferenceServerException

from genaf_sdk.evaluation import certificates
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.serve import load_bundle
from genaf_sdk.export.serve.errors import SettingsError
from genaf_sdk.export.serve.masking import LEAD, Masks, leading_class
from genaf_sdk.inputs.masks import MaskSet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def expected(folder: Path, images: np.ndarray) -> tuple[list[int], list[bool]]:
    """What the evaluation answers and certifies of the same file."""
    defense = certificates.DoubleMasking(MaskSet.for_area((SIZE, SIZE), AREA, COUNT), FILL)
    model, pixels = OnnxModel(folder), torch.from_numpy(images)
    answers = defense.answer(model, pixels)
    return answers.tolist(), defense.certified(model, pixels, answers).tolist()


@pytest.mark.parametrize("image", [(32, 32), (16, 48), (7, 5), (96, 96)])
@pytest.mark.parametrize("area", [0.02, 0.03, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_masks_are_those_of_the_evaluation(image: tuple[int, int], area: float, count: int) -> None:
    if area * image[0] * image[1] < 1:
        with pytest.raises(SettingsError, match="at least one mask"):
            Masks.for_area(image, area, count)
        return
    ours, theirs = Masks.for_area(image, area, count), MaskSet.for_area(image, area, count)
    assert ours.patch == theirs.patch
    assert np.array_equal(ours.table, theirs.table[:, 0].numpy())


@pytest.mark.parametrize("area", [0.0, -0.03, 1.5, 3.0, float("nan"), float("inf")])
def test_a_patch_covers_a_share(area: float) -> None:
    with pytest.raises(SettingsError, match=rf"cover {area:g} of an image.*above 0 and at most 1"):
        Masks.for_area((32, 32), area, 4)


def test_classes_lead_as_in_the_evaluation() -> None:
    rows = [
        [1, 2, 3],
        [3, 3, 1],
        [1, 1 + 5e-6, 0],
        [np.nan, 1, 2],
        [np.inf, 1, 2],
        [-np.inf, 0, 1],
        [0, 0, 0],
        [-9, -8, -7],
    ]
    logits = np.array(rows, np.float32)
    for lead in (0.0, LEAD):
        theirs = certificates.leading_class(torch.from_numpy(logits), len(logits), lead)
        assert leading_class(logits, lead).tolist() == theirs.tolist()
    assert certificates.LEAD == LEAD


@pytest.mark.parametrize("max_batch", [1, 7, 64])
def test_answers_and_certificates_are_those_of_the_evaluation(bundle: Path, max_batch: int) -> None:
    images = blots(40)
    answers, certified = expected(bundle, images)
    assert 5 < sum(certified) < 35, "both kinds are tried"
    classifier = load_bundle(bundle, certify=AREA, masks=COUNT, fill=FILL, max_batch=max_batch, threads=1)
    assert classifier.defense is not None
    found = classifier.defense(images)
    assert found[:, 0].tolist() == answers
    assert found[:, 1].tolist() == certified


def test_a_dissenting_mask_that_is_unanimous_wins(bundle: Path) -> None:
    images = blots(80)
    answers, _ = expected(bundle, images)
    majority = [
        int(np.bincount(OnnxModel(bundle)(torch.from_numpy(masked)).argmax(1)).argmax())
        for masked in under_masks(images)
    ]
    assert sum(one != other for one, other in zip(answers, majority, strict=True)) > 0, "second rounds are tried"
    classifier = load_bundle(bundle, certify=AREA, masks=COUNT, fill=FILL, threads=1)
    assert classifier.defense is not None
    assert classifier.defense(images)[:, 0].tolist() == answers


def under_masks(images: np.ndarray) -> Iterator[np.ndarray]:
    table = Masks.for_area((SIZE, SIZE), AREA, COUNT).table[:, None]
    color = np.array(FILL, np.float32)[:, None, None]
    for image in images:
        yield np.where(table, color, image)


@pytest.mark.parametrize("protocol", [tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
@pytest.mark.parametrize("names", [[], ["certified"], ["certified", "label"]])
def test_tensors_are_answered_with_labels_and_certificates(
    certifying: tuple[int, int, Path], protocol: Any, names: list[str]
) -> None:
    http, rpc, folder = certifying
    images = blots(8)
    answers = dict(zip(("label", "certified"), expected(folder, images), strict=True))
    with protocol.InferenceServerClient(f"127.0.0.1:{http if protocol is tritonclient.http else rpc}") as client:
        entry = protocol.InferInput("pixels", images.shape, "FP32")
        entry.set_data_from_numpy(images)
        outputs = [protocol.InferRequestedOutput(name) for name in names] or None
        result = client.infer("tiny", [entry], outputs=outputs)
        for name, values in answers.items():
            if names and name not in names:
                assert result.as_numpy(name) is None
            else:
                assert result.as_numpy(name).tolist() == values
        with pytest.raises(InferenceServerException, match="'label' or 'certified'"):
            client.infer("tiny", [entry], outputs=[protocol.InferRequestedOutput("logits")])


def post(port: int, path: str, body: bytes) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("model", ["tiny", "bytes"])
def test_pictures_are_answered_with_label_and_certificate(certifying: tuple[int, int, Path], model: str) -> None:
    http, _, folder = certifying
    pixels = np.rint(blots(12) * 255).astype(np.uint8)
    answers, certified = expected(folder, pixels.astype(np.float32) / 255)
    assert len(set(certified)) == 2
    for image, index, sure in zip(pixels, answers, certified, strict=True):
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
        found = post(http, f"/v2/models/{model}/classify", file.getvalue())
        assert found == {"model": model, "label": NAMES[index], "certified": sure}


def test_numbers_as_json_and_metadata(certifying: tuple[int, int, Path]) -> None:
    http, _, folder = certifying
    images = blots(7)  # more JSON than the event loop reads itself
    entry = {"name": "pixels", "datatype": "FP32", "shape": list(images.shape), "data": images.ravel().tolist()}
    found = post(http, "/v2/models/tiny/infer", json.dumps({"inputs": [entry]}).encode())
    answers, certified = expected(folder, images)
    assert found["outputs"] == [
        {"name": "label", "datatype": "INT64", "shape": [7], "data": answers},
        {"name": "certified", "datatype": "BOOL", "shape": [7], "data": certified},
    ]
    with urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/models/tiny", timeout=30) as answer:
        metadata = json.load(answer)
    assert [output["name"] for output in metadata["outputs"]] == ["label", "certified"]
    assert metadata["parameters"]["certified_patch"] == [6, 6]
    assert metadata["parameters"]["interpolation"] == "bilinear"


def test_a_color_that_nobody_states_is_refused(bundle: Path) -> None:
    with pytest.raises(SettingsError, match="--certify-fill"):
        load_bundle(bundle, certify=AREA)
    with pytest.raises(SettingsError, match="3 numbers"):
        load_bundle(bundle, certify=AREA, fill=(0.5, 2.0, 0.5))
