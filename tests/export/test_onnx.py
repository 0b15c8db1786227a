from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from export_helpers import TinyBackbone, tiny_data, tiny_result
from onnx import TensorProto, helper
from torch import Tensor, nn

from genaf_sdk.config import ExportConfig
from genaf_sdk.data.sampling import Sample
from genaf_sdk.errors import ConfigError, ExportError
from genaf_sdk.export import runtime, variants
from genaf_sdk.export.bundle import write_bundle
from genaf_sdk.export.integrity import checksums, publishable
from genaf_sdk.export.parity import check_parity, counted
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head
from genaf_sdk.report.scores import Failure


def new_model(backbone: nn.Module | None = None, **options: object) -> HardenedModel:
    torch.manual_seed(0)
    encoder = PixelEncoder(backbone or TinyBackbone(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    return HardenedModel(encoder, build_head("mlp", 16, 3), class_names=("ä", "b", "c"), image_size=(16, 16)).eval()


def test_the_file_takes_pixels_of_any_batch_size_and_knows_its_classes(tmp_path: Path) -> None:
    model = new_model()
    path = export_onnx(model, tmp_path / "model.onnx")

    loaded = runtime.OnnxModel(path)
    for size in (1, 2, 5, 33):
        pixels = torch.rand(size, 3, 16, 16)
        torch.testing.assert_close(loaded(pixels), model(pixels).detach(), atol=1e-5, rtol=1e-5)
    assert loaded.class_names == ["ä", "b", "c"]
    assert loaded.metadata["image_size"] == "[16, 16]"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # one file, nothing beside it


def test_uint8_input_and_half_precision(tmp_path: Path) -> None:
    model = new_model()
    raw = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    pixels = torch.from_numpy(raw).permute(0, 3, 1, 2).float() / 255
    expected = model(pixels).detach().numpy()

    session = onnxruntime.InferenceSession(str(export_onnx(model, tmp_path / "bytes.onnx", uint8_input=True)))
    np.testing.assert_allclose(session.run(None, {"pixels": raw})[0], expected, atol=1e-5)

    half = runtime.OnnxModel(export_onnx(model, tmp_path / "half.onnx", half=True))(pixels).numpy()
    np.testing.assert_allclose(half, expected, atol=5e-3)
    assert not np.array_equal(half, expected)


def test_a_file_of_other_weights_fails_parity(tmp_path: Path) -> None:
    model = new_model()
    path = export_onnx(model, tmp_path / "model.onnx")
    with torch.no_grad():
        model.get_parameter("head.5.bias").add_(0.01)
    with pytest.raises(ExportError, match="batch 5"):
        check_parity(model, path, torch.rand(5, 3, 16, 16))


def test_an_encoder_that_cannot_be_traced_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            features = x.mean((2, 3)).repeat(1, 6)[:, :16]
            return features if float(x.detach().sum()) > 0 else -features

    with pytest.raises(ExportError, match="without control flow"):
        export_onnx(new_model(Branching()), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_variants_are_kept_only_within_the_tolerance(tmp_path: Path) -> None:
    result = tiny_result(ExportConfig(precisions=("fp16", "int8"), uint8_input=True, tolerance=1.0))
    folder = write_bundle(result.model, tmp_path, result)
    found = result.report.onnx.variants  # type: ignore[union-attr]
    assert [variant.file for variant in found] == ["model.fp16.onnx", "model.int8.onnx", "model.uint8.onnx"]
    assert all(variant.written and (folder / variant.file).is_file() for variant in found)
    assert found[0].agreement > 0.95

    # A model whose half-precision weights overflow is no better than chance, and is not shipped.
    with torch.no_grad():
        result.model.get_parameter("head.5.weight").mul_(1e6)
        result.model.get_parameter("head.5.bias").mul_(1e6)
    export_onnx(result.model, folder / "model.onnx")
    strict = ExportConfig(precisions=("fp16",), tolerance=0.01)
    (kept,) = variants.write_variants(result.model, folder, result.data, {}, strict, samples=None, seed=0)
    assert not kept.written
    assert not (folder / "model.fp16.onnx").exists()
    assert not list(folder.glob(".variant-*"))


def test_a_variant_that_loses_accuracy_under_one_perturbation_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clean images are answered alike, and 3 of 60 otherwise under the perturbation."""
    data = tiny_data()
    right = Sample.draw(data.test, None, seed=0).labels
    hurt = torch.where(torch.arange(60) < 3, (right + 1) % 3, right)
    monkeypatch.setattr(variants, "_make", lambda model, source, target, *_: target.write_bytes(b"graph"))
    monkeypatch.setattr(variants, "OnnxModel", lambda path: path)
    monkeypatch.setattr(variants, "_is_finite", lambda *_: True)
    monkeypatch.setattr(variants, "predictions", lambda _, sample, found: {"": right, **dict.fromkeys(found, hurt)})
    reference = counted({"": right, "uapgd": right}, right)
    for tolerance, written in ((0.04, False), (0.06, True)):
        config = ExportConfig(precisions=("fp16",), tolerance=tolerance)
        perturbations = {"uapgd": Perturbation(torch.zeros(3, 16, 16), Linf(0.1))}
        (variant,) = variants.write_variants(
            new_model(), tmp_path, data, perturbations, config, samples=None, seed=0, reference=reference
        )
        assert variant.largest_loss == pytest.approx(0.05)
        assert (variant.written, (tmp_path / "model.fp16.onnx").exists()) == (written, written)


def test_checksums_cover_what_is_published_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "stage-1.safetensors").write_bytes(b"x")
    (tmp_path / ".model.onnx.7.partial").write_bytes(b"x")
    folder = write_bundle(new_model(), tmp_path)
    listed = set(checksums(folder))
    assert {"model.onnx", "model.safetensors", "config.json", "labels.json", "README.md", "serve/server.py"} <= listed
    assert not [name for name in listed if "checkpoints" in name or "partial" in name or "pycache" in name]
    assert {file.name for file in publishable(folder)} == listed | {"checksums.json"}


def test_a_graph_that_takes_no_images_is_refused(tmp_path: Path) -> None:
    values = helper.make_tensor("values", TensorProto.FLOAT, [1, 2], [1.0, 2.0])
    constant = helper.make_node("Constant", [], ["logits"], value=values)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    vector = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch"])
    opset = helper.make_opsetid("", 17)
    for name, inputs, nodes in (
        ("none", [], [constant]),
        ("vector", [vector], [constant, helper.make_node("Shape", ["pixels"], ["shape"])]),
    ):
        graph = helper.make_graph(nodes, name, inputs, [logits])
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString())
    with pytest.raises(ExportError, match="0 inputs and 1 outputs"):
        runtime.OnnxModel(tmp_path / "none.onnx")
    with pytest.raises(ExportError, match="does not say which images"):
        _ = runtime.OnnxModel(tmp_path / "vector.onnx").image_options


def test_both_onnxruntime_packages_at_once_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = export_onnx(new_model(), tmp_path / "model.onnx")
    monkeypatch.setattr("genaf_sdk.export.serve.providers.version", lambda name: "1.31")
    with pytest.raises(ExportError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        runtime.OnnxModel(path)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_damaged_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.onnx"):
        runtime.OnnxModel(tmp_path)
    with pytest.raises(ExportError, match="There is no file"):
        runtime.OnnxModel(tmp_path / "absent")


@pytest.mark.slow
def test_a_resnet50_at_224_keeps_its_logits_and_labels(tmp_path: Path) -> None:
    from genaf_sdk import load_encoder

    encoder = load_encoder("torchvision:resnet50:random")
    torch.manual_seed(0)
    model = HardenedModel(
        encoder, build_head("mlp", 2048, 10), class_names=tuple("abcdefghij"), image_size=(224, 224)
    ).eval()
    path = export_onnx(model, tmp_path / "model.onnx")
    half = runtime.OnnxModel(export_onnx(model, tmp_path / "half.onnx", half=True))
    single = runtime.OnnxModel(path)
    assert max(check_parity(model, path, torch.rand(5, 3, 224, 224)).differences.values()) <= 1e-4
    same = half_same = 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        coarse = torch.rand(25, 3, 7, 7, generator=generator)
        pixels = nn.functional.interpolate(coarse, 224, mode="bicubic").clamp(0, 1)
        with torch.no_grad():
            labels = model(pixels).argmax(1)
        same += int((single(pixels).argmax(1) == labels).sum())
        half_same += int((half(pixels).argmax(1) == labels).sum())
    assert same == 1000
    assert half_same >= 995


def test_a_batch_that_the_graph_does_not_take_is_an_error_of_the_package(tmp_path: Path) -> None:
    path = export_onnx(new_model(), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"cannot be run on images of shape \(2, 3, 15, 15\)"):
        runtime.OnnxModel(path)(torch.rand(2, 3, 15, 15))


class Counted(TinyBackbone):
    """Says ``len(x)`` where other encoders say ``x.shape[0]``: a number to most tracers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(len(x), -1)


def test_a_length_in_the_forward_pass_does_not_fix_the_batch(tmp_path: Path) -> None:
    model = new_model(Counted())
    path = export_onnx(model, tmp_path / "model.onnx")
    assert check_parity(model, path, torch.rand(5, 3, 16, 16)).differences.keys() == {1, 2, 5}


class Overflowing(nn.Module):
    """Finite in float32; in half precision infinite for a white picture."""

    def __init__(self) -> None:
        super().__init__()
        self.body = TinyBackbone()

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x)
        return features + 1e7 * torch.relu(x.mean((1, 2, 3))[:, None] - 0.9)


def test_half_precision_that_overflows_on_a_white_picture_is_not_written(tmp_path: Path) -> None:
    model = new_model(Overflowing())
    model.encoder.mean.zero_()
    model.encoder.std.fill_(1.0)
    export_onnx(model, tmp_path / "model.onnx")
    failures: list[Failure] = []
    config = ExportConfig(precisions=("fp16",), tolerance=1.0)
    variants.write_variants(model, tmp_path, tiny_data(), {}, config, samples=10, seed=0, failures=failures)
    assert [failure.name for failure in failures] == ["model.fp16.onnx"]
    assert "white" in failures[0].error
    assert not (tmp_path / "model.fp16.onnx").exists()


def test_a_license_that_the_hub_does_not_know_is_refused_before_anything_is_done() -> None:
    with pytest.raises(ConfigError, match=r"'apache2'.*apache-2\.0"):
        ExportConfig(license="apache2")
    assert ExportConfig(license="apache-2.0").license
