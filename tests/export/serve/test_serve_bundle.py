"""What must be refused before onnxruntime sees it, each with a message that helps."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper
from tiny import NAMES, SIZE, make_bundle, seal, tiny_graph

from genaf_sdk.export.serve import open_bundle
from genaf_sdk.export.serve.bundle import precisions
from genaf_sdk.export.serve.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_bundle_says_what_is_in_it(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.class_names == tuple(NAMES)
    assert opened.image_size == (SIZE, SIZE)
    assert opened.input_shape == (3, SIZE, SIZE)
    assert (opened.precision, opened.sdk_version) == ("fp32", "0")


def test_precisions_are_files(bundle: Path) -> None:
    shutil.copy(bundle / "model.onnx", bundle / "model.fp16.onnx")
    seal(bundle)
    assert precisions(bundle) == ("fp32", "fp16")
    assert open_bundle(bundle, precision="fp16").path.name == "model.fp16.onnx"
    with pytest.raises(BundleError, match=r"no model\.int8\.onnx.*one of fp32, fp16"):
        open_bundle(bundle, precision="int8")


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no file"):
        open_bundle(tmp_path / "nothing")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.98])
def test_a_truncated_model_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny_graph(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 or keep == 0 else len(data) * keep)])
    with pytest.raises(BundleError, match=r"damaged|no graph"):
        open_bundle(path)


def test_a_changed_file_is_refused(bundle: Path) -> None:
    (bundle / "labels.json").write_text(json.dumps([*NAMES[:-1], "spider"]))
    with pytest.raises(BundleError, match=r"SHA-256 of .*labels\.json.*do not serve"):
        open_bundle(bundle)


def test_a_file_without_checksum_is_refused(bundle: Path) -> None:
    (bundle / "checksums.json").write_text('{"sha256": {}}')
    with pytest.raises(BundleError, match="nothing of it"):
        open_bundle(bundle)
    (bundle / "checksums.json").unlink()
    with pytest.raises(BundleError, match=r"checksums\.json cannot be read"):
        open_bundle(bundle)


def test_a_newer_format_is_refused(bundle: Path) -> None:
    (bundle / "config.json").write_text('{"format": 2}')
    seal(bundle)
    with pytest.raises(BundleError, match=r"format 2.*update genaf-sdk"):
        open_bundle(bundle)


def test_labels_that_contradict_the_model_are_refused(bundle: Path) -> None:
    (bundle / "labels.json").write_text(json.dumps(NAMES[::-1]))
    seal(bundle)
    with pytest.raises(BundleError, match="differ"):
        open_bundle(bundle)


@pytest.mark.parametrize("content", ["5", "{}", "[]", "null", "[1, 2, 3, 4]", '["cat", null]', "[" * 100_000])
def test_labels_must_be_names(bundle: Path, content: str) -> None:
    (bundle / "labels.json").write_text(content)
    seal(bundle)
    with pytest.raises(BundleError, match=r"labels\.json (holds|cannot be read)"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["config.json", "checksums.json"])
def test_json_nested_too_deep_is_damaged(bundle: Path, name: str) -> None:
    (bundle / name).write_text("[" * 100_000)
    with pytest.raises(BundleError, match=rf"{name} cannot be read"):
        open_bundle(bundle)


def external(folder: Path, location: str, *, hidden: bool = False) -> Path:
    """A bundle whose weight lies in the file ``location``; ``hidden`` puts it into a subgraph."""
    model = tiny_graph()
    tensor = model.graph.initializer[0]
    raw, tensor.data_location = tensor.raw_data, TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=location)
    if hidden:
        branch = helper.make_graph([], "branch", [], [], [tensor])
        model.graph.node.append(helper.make_node("If", ["condition"], ["x"], then_branch=branch, else_branch=branch))
        del model.graph.initializer[0]
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "weights.bin").write_bytes(raw)
    seal(folder)
    return folder


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    assert open_bundle(external(tmp_path / "bundle", "weights.bin")).class_names == tuple(NAMES)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/weights.bin", "..\\secret", "C:\\x", "..", ""])
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str, hidden: bool) -> None:
    with pytest.raises(BundleError, match="plain file name"):
        open_bundle(external(tmp_path / "bundle", location, hidden=hidden))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_linked_external_data_is_refused(tmp_path: Path, link: object) -> None:
    folder = external(tmp_path / "bundle", "weights.bin")
    (folder / "weights.bin").rename(tmp_path / "elsewhere")
    link(tmp_path / "elsewhere", folder / "weights.bin")  # type: ignore[operator]
    with pytest.raises(BundleError, match="link"):
        open_bundle(folder)


def test_external_data_is_checked_too(tmp_path: Path) -> None:
    folder = external(tmp_path / "bundle", "weights.bin")
    (folder / "weights.bin").write_bytes(b"\0" * 48)
    with pytest.raises(BundleError, match="SHA-256"):
        open_bundle(folder)


def test_metadata_must_be_what_it_should(tmp_path: Path) -> None:
    for key, value in (("class_names", "[1"), ("class_names", "[1, 2]"), ("image_size", "[32]")):
        model = tiny_graph()
        helper.set_model_props(model, {key: value})
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(BundleError, match=r"metadata|image size"):
            open_bundle(tmp_path / "model.onnx")


def test_the_helper_makes_whole_bundles(tmp_path: Path) -> None:
    assert open_bundle(make_bundle(tmp_path / "other", takes_bytes=True)).input_shape == (SIZE, SIZE, 3)
