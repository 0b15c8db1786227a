"""What must be refused before onnxruntime sees it, each with a message that helps."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import NAMES, SIZE, images, make_bundle, reference, seal, tiny_graph

from genaf_sdk.export.serve import load_bundle, open_bundle
from genaf_sdk.export.serve.bundle import precisions
from genaf_sdk.export.serve.errors import BundleError, ProviderError
from genaf_sdk.export.serve.providers import open_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_bundle_says_what_is_in_it(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.class_names == tuple(NAMES)
    assert opened.image_size == (SIZE, SIZE)
    assert opened.input_shape == (3, SIZE, SIZE)
    assert opened.precision == "fp32"


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


@pytest.mark.parametrize("name", ["labels.json", "config.json"])
def test_a_listed_file_that_is_missing_is_not_passed_over(bundle: Path, name: str) -> None:
    (bundle / name).write_text("{}" if name == "config.json" else json.dumps(NAMES))
    seal(bundle)
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} cannot be read.*copy or download the bundle again"):
        open_bundle(bundle)
    seal(bundle)
    assert open_bundle(bundle).class_names == tuple(NAMES)


@pytest.mark.parametrize("size", [[10**9, 10**9], [8193, 8], [0, 8], [-8, 8], [8]])
def test_a_size_that_no_picture_has_is_refused_before_one_is_made(bundle: Path, size: list[int]) -> None:
    model = onnx.load(bundle / "model.onnx")
    next(entry for entry in model.metadata_props if entry.key == "image_size").value = json.dumps(size)
    onnx.save(model, bundle / "model.onnx")
    seal(bundle)
    with pytest.raises(BundleError, match=rf"states the image size \[{size[0]}.*at most 8192"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["config.json", "checksums.json"])
def test_json_nested_too_deep_is_damaged(bundle: Path, name: str) -> None:
    (bundle / name).write_text("[" * 100_000)
    if name != "checksums.json":
        seal(bundle)
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
@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "sub/weights.bin", "..\\secret", "C:\\x", "..", "", "x" * 5000]
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str, hidden: bool) -> None:
    with pytest.raises(BundleError, match="operator 'If'" if hidden else "plain file name"):
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
    assert open_bundle(make_bundle(tmp_path / "other", uint8_input=True)).input_shape == (SIZE, SIZE, 3)


# Graphs that are more than tensor arithmetic, and files that change.


def graph(*nodes: onnx.NodeProto, **initializers: np.ndarray) -> onnx.ModelProto:
    """The tiny model, and before it nodes that add ``extra`` of one number to its features."""
    model = tiny_graph()
    whole = [*nodes, helper.make_node("Add", ["features", "extra"], ["more"])]
    model.graph.node[-1].input[0] = "more"
    last = model.graph.node.pop()
    model.graph.node.extend([*whole, last])
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in initializers.items())
    return model


def loop() -> onnx.ModelProto:
    """Two to the power of sixty rounds of nothing."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["value"], ["same"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("same", TensorProto.FLOAT, [1]),
        ],
    )
    node = helper.make_node("Loop", ["rounds", "yes", "start"], ["extra"], body=body)
    start = np.zeros(1, np.float32)
    return graph(node, rounds=np.array(2**60), yes=np.array(True), start=start)


def context() -> onnx.ModelProto:
    """An engine of TensorRT in a file that the graph names."""
    attributes = {"ep_cache_context": "/etc/passwd", "embed_mode": 0}
    return graph(helper.make_node("EPContext", ["features"], ["extra"], domain="com.microsoft", **attributes))


def sized_by_pixels() -> onnx.ModelProto:
    cast = helper.make_node("Cast", ["features"], ["sizes"], to=TensorProto.INT64)
    flat = helper.make_node("Flatten", ["sizes"], ["flat"], axis=0)
    return graph(cast, flat, helper.make_node("ConstantOfShape", ["flat"], ["extra"]))


def sized_by_pixels_out_of_order() -> onnx.ModelProto:
    """The node that makes the zeros stands before those that say how many; onnxruntime sorts them."""
    model = sized_by_pixels()
    (place,) = (at for at, node in enumerate(model.graph.node) if node.op_type == "ConstantOfShape")
    model.graph.node.insert(0, model.graph.node.pop(place))
    return model


def counted_pixels() -> onnx.ModelProto:
    """As many zeros as a picture has bright pixels, a million times: none for the black one that is tried."""
    nodes = [
        helper.make_node("NonZero", ["features"], ["places"]),
        helper.make_node("Shape", ["places"], ["bright"], start=1),
        helper.make_node("Mul", ["bright", "million"], ["many"]),
        helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["extra"], keepdims=0),
    ]
    return graph(*nodes, million=np.array([10**6]))


def cut_by_pixels() -> onnx.ModelProto:
    """The same, by the length of what is cut off where a pixel says."""
    nodes = [
        helper.make_node("ReduceMax", ["features"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["end"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["end", "zero"], ["ends"]),
        helper.make_node("Slice", ["row", "zero", "ends"], ["part"]),
        helper.make_node("Shape", ["part"], ["length"]),
        helper.make_node("ConstantOfShape", ["length"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["extra"], keepdims=0),
    ]
    return graph(*nodes, zero=np.array([0]), row=np.zeros(9, np.float32))


def functions() -> onnx.ModelProto:
    model = tiny_graph()
    opset = helper.make_opsetid("", 17)
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("own", "Twice", ["x"], ["y"], [node], [opset]))
    return model


def strangers() -> onnx.ModelProto:
    return graph(helper.make_node("Anything", ["features"], ["extra"], domain="their.own"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (loop, "operator 'Loop'"),
        (context, r"operator 'com\.microsoft\.EPContext'"),
        (sized_by_pixels, "size depends on pixels"),
        (sized_by_pixels_out_of_order, "before what it takes"),
        (counted_pixels, "size depends on pixels"),
        (cut_by_pixels, "size depends on pixels"),
        (functions, "functions of its own"),
        (strangers, r"operator 'their\.own\.Anything'"),
    ],
)
def test_graphs_that_may_not_end_are_refused(tmp_path: Path, make: Callable[[], onnx.ModelProto], says: str) -> None:
    (tmp_path / "model.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(BundleError, match=says):
        open_bundle(tmp_path / "model.onnx")


def test_a_graph_of_sizes_that_are_known_is_not(tmp_path: Path) -> None:
    shape = helper.make_node("Shape", ["features"], ["sizes"])
    model = graph(shape, helper.make_node("ConstantOfShape", ["sizes"], ["extra"]))
    onnx.save(model, tmp_path / "model.onnx")
    logits = load_bundle(tmp_path / "model.onnx", provider="cpu").predict(images(2)).logits
    np.testing.assert_allclose(logits, reference(images(2)), atol=1e-5)


def test_what_a_node_leaves_out_has_no_place_in_the_order(tmp_path: Path) -> None:
    """Inputs and outputs without a name are not one and the same."""
    nodes = [
        helper.make_node("Clip", ["features", "", "most"], ["clipped"]),
        helper.make_node("LayerNormalization", ["clipped", "scale"], ["normal", "", "deviation"]),
        helper.make_node("Unsqueeze", ["deviation", "first"], ["row"]),
        helper.make_node("Resize", ["row", "", "twice"], ["resized"]),
        helper.make_node("ReduceSum", ["resized"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["extra"]),
    ]
    ones = np.ones(3, np.float32)
    values = {"most": ones[0], "scale": ones, "zero": np.float32(0), "twice": 2 * ones, "first": np.array([0])}
    (tmp_path / "model.onnx").write_bytes(graph(*nodes, **values).SerializeToString())
    logits = load_bundle(tmp_path / "model.onnx", provider="cpu").predict(images(2)).logits
    np.testing.assert_allclose(logits, reference(images(2)), atol=1e-5)


def test_a_graph_that_asks_for_all_memory_is_refused(tmp_path: Path) -> None:
    """Half a terabyte of zeros, summed up; what the process may take is as before, afterwards."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["extra"], keepdims=0),
    ]
    (tmp_path / "model.onnx").write_bytes(graph(*nodes, shape=np.array([2**37])).SerializeToString())
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(ProviderError):
        load_bundle(tmp_path / "model.onnx", provider="cpu")
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.parametrize("uint8_input", [False, True])
def test_a_graph_of_free_sides_is_tried_at_the_size_that_it_states(
    uint8_input: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the first picture would take all memory, where nothing bounds it."""
    pytest.importorskip("resource", reason="limits of POSIX")
    monkeypatch.setattr("genaf_sdk.export.serve.providers.half_of_memory", lambda: 2**27)
    model = tiny_graph(size=8192, uint8_input=uint8_input)
    for at in (1, 2) if uint8_input else (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[at].dim_param = f"side{at}"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ProviderError, match=r"model\.onnx fails on one image"):
        open_session(open_bundle(tmp_path / "model.onnx"), provider="cpu")


def test_a_first_run_that_takes_too_long_is_ended(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genaf_sdk.export.serve.providers.TRIAL_SECONDS", 0.3)
    size = np.array([900, 900])
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{at}", f"m{at}"], [f"m{at + 1}"]) for at in range(400)]
    nodes += [helper.make_node("ReduceSum", ["m400"], ["sum"], keepdims=0)]
    seed = helper.make_node("ReduceMean", ["features"], ["seed"], keepdims=0)
    nodes = [seed, *nodes, helper.make_node("Mul", ["sum", "seed"], ["extra"])]
    nodes[2].input[1] = "from_pixels"  # so that it cannot be computed when the session is made
    nodes.insert(2, helper.make_node("Add", ["m0", "seed"], ["from_pixels"]))
    (bundle / "model.onnx").write_bytes(graph(*nodes, shape=size).SerializeToString())
    seal(bundle)
    began = time.process_time()
    with pytest.raises(ProviderError, match=r"takes more than 0\.3 s"):
        load_bundle(bundle, provider="cpu", threads=1)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("weights", [False, True])
def test_what_was_checked_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: bool) -> None:
    """The files are replaced after they were compared with their checksums, before onnxruntime has them."""
    folder = external(tmp_path / "bundle", "weights.bin") if weights else make_bundle(tmp_path / "bundle")

    def replaced(*arguments: object, **options: object) -> object:
        for path in folder.glob("*.bin" if weights else "*.onnx"):
            path.write_bytes(b"\0" * path.stat().st_size)
        return open_session(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("genaf_sdk.export.serve.classifier.open_session", replaced)
    classifier = load_bundle(folder, provider="cpu")
    np.testing.assert_allclose(classifier.predict(images(2)).logits, reference(images(2)), atol=1e-5)
    assert not classifier.bundle.content


def test_external_weights_are_used(tmp_path: Path) -> None:
    classifier = load_bundle(external(tmp_path / "bundle", "weights.bin"), provider="cpu")
    np.testing.assert_allclose(classifier.predict(images(3)).logits, reference(images(3)), atol=1e-5)


def test_files_that_are_none_are_refused(bundle: Path) -> None:
    (bundle / "labels.json").unlink()
    os.mkfifo(bundle / "labels.json")
    with pytest.raises(BundleError, match="no regular file"):
        open_bundle(bundle)
    (bundle / "labels.json").unlink()
    with (bundle / "labels.json").open("wb") as file:
        file.truncate(10**11)  # of holes
    with pytest.raises(BundleError, match="100000000000 bytes"):
        open_bundle(bundle)
