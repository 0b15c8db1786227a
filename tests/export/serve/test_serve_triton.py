"""What is written for Triton and KServe, read back and compared with the graph."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from google.protobuf import text_format
from tiny import CLASSES, NAMES, SIZE, images, reference, tiny_graph
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from genaf_sdk.errors import ExportError
from genaf_sdk.export.kserve import kserve_manifest, write_kserve_manifest
from genaf_sdk.export.triton import check_triton_model, write_triton_repository

if TYPE_CHECKING:
    from pathlib import Path


def test_the_configuration_says_what_the_graph_says(bundle: Path, tmp_path: Path) -> None:
    folder = write_triton_repository(bundle, tmp_path / "repository", max_batch=16, max_delay=0.003, device="cpu")
    config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 16)
    assert [(end.name, list(end.dims)) for end in config.input] == [("pixels", [3, SIZE, SIZE])]
    assert [(end.name, list(end.dims)) for end in config.output] == [("logits", [CLASSES])]
    assert config.dynamic_batching.max_queue_delay_microseconds == 3000
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_CPU
    assert [(each.batch_size, list(each.inputs["pixels"].dims)) for each in config.model_warmup] == [
        (1, [3, SIZE, SIZE]),
        (16, [3, SIZE, SIZE]),
    ]
    assert (folder / "labels.txt").read_text().splitlines() == NAMES
    assert (folder / "1" / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()
    assert sorted(path.name for path in (tmp_path / "repository").iterdir()) == ["tiny"]


def test_weights_beside_the_graph_go_along(bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    onnx.save(
        onnx.load(bundle / "model.onnx"), source / "net.onnx", save_as_external_data=True, location="net.bin",
        size_threshold=0,
    )  # fmt: skip
    folder = write_triton_repository(source / "net.onnx", tmp_path / "repository")
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"pixels": images(2)})[0], reference(images(2)), atol=1e-5)


def test_tensorrt_keeps_the_precision_of_the_file(bundle: Path, tmp_path: Path) -> None:
    folder = write_triton_repository(bundle, tmp_path / "repository", name="fast", tensorrt=True)
    config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["precision_mode"] == "FP32"
    digest = hashlib.sha256((bundle / "model.onnx").read_bytes()).hexdigest()
    assert digest in accelerator.parameters["trt_engine_cache_path"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("dims: 32\n", "dims: 31\n"), ('"pixels"\n  data', '"image"\n  data'), ("TYPE_FP32", "TYPE_FP16"), ("{", "[")],
)
def test_a_configuration_that_differs_is_found(bundle: Path, tmp_path: Path, old: str, new: str) -> None:
    folder = write_triton_repository(bundle, tmp_path / "repository")
    path = folder / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ExportError):
        check_triton_model(folder)


def test_nothing_is_overwritten_or_left_half_done(bundle: Path, tmp_path: Path) -> None:
    write_triton_repository(bundle, tmp_path / "repository")
    with pytest.raises(ExportError, match="exists already"):
        write_triton_repository(bundle, tmp_path / "repository")
    (bundle / "labels.json").write_text("[]")
    with pytest.raises(ExportError, match="SHA-256"):
        write_triton_repository(bundle, tmp_path / "repository", name="other")
    onnx.save(tiny_graph(batch=2), tmp_path / "fixed.onnx")
    with pytest.raises(ExportError, match="a free batch"):
        write_triton_repository(tmp_path / "fixed.onnx", tmp_path / "repository")
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    "wrong", [{"name": "../x"}, {"max_batch": 0}, {"instances": 0}, {"tensorrt": True, "device": "cpu"}]
)
def test_wrong_options_are_refused(bundle: Path, tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ExportError):
        write_triton_repository(bundle, tmp_path / "repository", **wrong)  # type: ignore[arg-type]


def test_the_manifest_of_a_triton_repository(tmp_path: Path) -> None:
    path = write_kserve_manifest(
        tmp_path / "service.yaml", "digits", storage_uri="s3://bucket/repository", gpus=1, replicas=(0, 3)
    )
    manifest = yaml.safe_load(path.read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = manifest["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (0, 3)
    assert predictor["model"]["protocolVersion"] == "v2"
    assert predictor["model"]["storageUri"] == "s3://bucket/repository"
    assert predictor["model"]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "*" not in path.read_text()  # no YAML anchors, which people edit by mistake


def test_the_manifest_of_our_own_image() -> None:
    predictor = kserve_manifest("digits", image="registry.example/digits:1", namespace="vision")["spec"]["predictor"]
    (container,) = predictor["containers"]
    assert (container["name"], container["args"]) == ("kserve-container", ["--open"])
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8000}
    # The root is read only, and TensorRT's engines go to /tmp.
    assert container["securityContext"]["readOnlyRootFilesystem"]
    (mount,) = container["volumeMounts"]
    assert (mount["mountPath"], predictor["volumes"]) == ("/tmp", [{"name": mount["name"], "emptyDir": {}}])


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Digits"},
        {"name": "x\nkind: Pod"},
        {"name": "x" * 64},
        {"image": ""},
        {"storage_uri": "s3://a"},
        {"gpus": -1},
        {"replicas": (2, 1)},
    ],
)
def test_impossible_manifests_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ExportError):
        kserve_manifest(**{"name": "digits", "image": "x", **wrong})  # type: ignore[arg-type]
