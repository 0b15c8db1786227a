from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from genaf_sdk import HardenConfig, HardenedModel, RobustnessReport, evaluate, harden, load_encoder
from genaf_sdk.data import DataSplits, load_data
from genaf_sdk.errors import ConfigError, DataError, EncoderError, ExportError, OutputError
from genaf_sdk.export.integrity import seal
from genaf_sdk.export.outcome import Outcome
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.verify import verify_bundle
from genaf_sdk.report.scores import Score
from genaf_sdk.result import HardenResult


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundle")


@pytest.fixture
def result(tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, bundle: Path) -> HardenResult:
    """The whole path on a tiny encoder; made once, as the folder outlives the test."""
    if "result" not in CACHE:
        CACHE["result"] = harden(tiny_encoder, striped, quick_config, output_dir=bundle, progress=False)
    return CACHE["result"]


CACHE: dict[str, HardenResult] = {}


def test_every_promised_file_is_there_and_nothing_half_written(result: HardenResult, bundle: Path) -> None:
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {"report.json", "model.onnx", "model.safetensors", "config.json"} <= names
    assert "perturbations/transfer-uapgd.safetensors" in names
    assert not [name for name in names if "partial" in name]


def test_the_report_holds_the_three_columns_before_and_after(result: HardenResult, bundle: Path) -> None:
    content = json.loads((bundle / "report.json").read_text())
    rows = {(row["model"], row["column"], row["attack"]) for row in content["scores"]}
    for model in ("undefended", "hardened"):
        assert {(model, "clean", ""), (model, "transfer", "uapgd"), (model, "adaptive", "uapgd")} <= rows
        assert (model, "white-box", "pgd") in rows
    assert set(content["sensitivity"]) >= {"encoder.backbone.conv1.weight", "head.5.weight"}
    assert content["adaptation"]["layers"]
    assert [record["stage"] for record in content["history"]].count("stage 1") == 16
    assert RobustnessReport.load(bundle).to_dict() == content


def test_longer_training_is_advised_where_few_images_keep_little(result: HardenResult) -> None:
    def advice(correct: int, *, threat: str = "linf", epochs: int = 20, column: str = "adaptive") -> str:
        scores = [
            Score("hardened", "clean", "", 0.0, 100, 90, 0),  # type: ignore[arg-type]
            Score("hardened", column, "uapgd", 0.04, 100, correct, 0, perturbation="one", threat=threat),  # type: ignore[arg-type]
        ]
        config = result.config.with_(method={"schedule": {"epochs": epochs}})
        return replace(result, report=RobustnessReport(result.report.data, scores), config=config).advice  # type: ignore[union-attr]

    told = "One perturbation for all images (uapgd, adaptive) leaves 79.0% of 90.0%. The preset 'strict' has 80 epochs"
    assert advice(79).startswith(told)
    assert advice(81) == advice(79, threat="patch") == advice(79, epochs=80) == advice(79, column="white-box") == ""
    assert replace(result, report=None).advice == ""
    many = replace(result.data, train=result.data.train.subset(list(range(96)) * 60))
    assert replace(result, data=many).advice == ""


def test_the_model_learned_the_task(result: HardenResult) -> None:
    assert result.report is not None
    assert result.report.accuracy("clean") > 0.9


def test_training_in_bf16_leaves_a_float32_classifier(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    config = quick_config.with_(machine={"mixed_precision": "bf16"}, method={"schedule": {"epochs": 1}})
    model = harden(tiny_encoder, striped, config, evaluate=False, progress=False).model
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with torch.no_grad():
        pixels = striped.test.sample(8)[0]
        torch.testing.assert_close(model(pixels).double(), model.double()(pixels.double()), rtol=1e-4, atol=1e-4)


def test_saved_and_loaded_models_agree_with_the_onnx_file(
    result: HardenResult, bundle: Path, tiny_encoder: nn.Module
) -> None:
    pixels = torch.rand(7, 3, 16, 16)
    loaded = HardenedModel.from_pretrained(bundle, backbone=tiny_encoder)
    with torch.no_grad():
        expected = result.model(pixels)
        torch.testing.assert_close(loaded(pixels), expected)
    torch.testing.assert_close(OnnxModel(bundle)(pixels), expected, atol=1e-4, rtol=1e-4)
    assert loaded.class_names == ("red", "green", "blue")


def test_a_module_of_the_users_own_needs_its_architecture(result: HardenResult, bundle: Path) -> None:
    with pytest.raises(EncoderError, match="backbone="):
        HardenedModel.from_pretrained(bundle)


def test_the_figures_stand_for_the_onnx_file(result: HardenResult, bundle: Path, striped: DataSplits) -> None:
    verification = verify_bundle(bundle, striped)
    assert verification.differences == []
    assert verification.agrees
    assert verification.count(Outcome.REPLAYED) >= 4  # clean, noise, transfer, adaptive


def test_a_tampered_onnx_file_does_not_verify(
    result: HardenResult, bundle: Path, striped: DataSplits, tmp_path: Path
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("checkpoints", "metrics.jsonl"))
    proto = onnx.load(bundle / "model.onnx")
    last = max((t for t in proto.graph.initializer if list(t.dims) == [3]), key=lambda tensor: tensor.name)
    last.CopyFrom(onnx.numpy_helper.from_array(torch.tensor([50.0, 0, 0]).numpy(), last.name))
    onnx.save(proto, copy / "model.onnx")
    with pytest.raises(ExportError, match=r"model\.onnx"):  # its checksum
        verify_bundle(copy, striped)
    seal(copy)
    assert not verify_bundle(copy, striped).agrees


def test_evaluate_takes_results_modules_bundles_and_callables(
    result: HardenResult, bundle: Path, striped: DataSplits, quick_config: HardenConfig
) -> None:
    config = replace(quick_config.evaluation, curve=(), checks=False)
    by_result = evaluate(result, striped, config=config)
    by_module = evaluate(result.model, striped, encoder=result.published, config=config)
    by_bundle = evaluate(bundle, striped, encoder=result.published, config=config)
    assert [s.correct for s in by_result.scores] == [s.correct for s in by_module.scores]
    transfer = {s.attack: s.correct for s in by_module.scores if s.column == "transfer"}
    assert {s.attack: s.correct for s in by_bundle.scores if s.column == "transfer"} == transfer
    assert not [s for s in by_bundle.scores if s.column == "adaptive"]


def test_the_same_seed_gives_the_same_result(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    runs = [harden(tiny_encoder, striped, quick_config, progress=False, evaluate=False) for _ in range(2)]
    states = [run.model.state_dict() for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert runs[0].adaptation == runs[1].adaptation


def test_the_encoder_and_the_random_state_are_left_as_they_were(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    before = {name: value.clone() for name, value in tiny_encoder.state_dict().items()}
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    harden(tiny_encoder, striped, quick_config, progress=False, evaluate=False)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in tiny_encoder.state_dict().items())


def test_an_output_folder_that_cannot_be_written_is_refused_before_training(
    striped: DataSplits, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")

    class Untouchable(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("training must not start")

    with pytest.raises(OutputError, match="output_dir"):
        harden(Untouchable(), striped, output_dir=tmp_path / "file" / "output")


@pytest.mark.parametrize("encoder", ["no-such-encoder", nn.Conv2d(3, 4, 16).requires_grad_(False)])
def test_an_error_before_anything_is_written_leaves_no_empty_folder(
    encoder: str | nn.Module, striped: DataSplits, tmp_path: Path
) -> None:
    with pytest.raises(EncoderError):
        harden(encoder, striped, output_dir=tmp_path / "runs" / "new", progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: x.mean((1, 2, 3)), r"shape \(2,\)"),
        (lambda x: (x.mean((2, 3)), x.mean((2, 3))), "a tuple"),
        (lambda x: torch.cat([x, x[:, :, :7]]), "refuses images"),
        (lambda x: x.mean((2, 3)) * float("nan"), "NaN"),
    ],
)
def test_encoders_that_cannot_be_used_are_refused(output, message: str, striped: DataSplits) -> None:  # type: ignore[no-untyped-def]
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> object:
            return output(x)

    with pytest.raises(EncoderError, match=message):
        harden(Odd(), striped, evaluate=False)


def test_images_of_other_channels_than_the_encoders_are_refused(tiny_encoder: nn.Module) -> None:
    """Mean and standard deviation of three channels would make three of one, and the model would take no such image."""
    gray = load_data("digits", channels=1, image_size=(16, 16))
    with pytest.raises(DataError, match=r"have 1 channel\(s\), and the encoder takes 3"):
        harden(load_encoder(tiny_encoder, mean=(0.5,) * 3, std=(0.2,) * 3), gray, evaluate=False)


def test_nan_in_a_weight_is_refused_by_name(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    with torch.no_grad():
        tiny_encoder.get_parameter("conv2.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(EncoderError, match=r"conv2\.weight"):
        harden(tiny_encoder, striped, evaluate=False)


def test_unknown_presets_and_configs_are_refused(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    with pytest.raises(ConfigError, match="try paper"):
        harden(tiny_encoder, striped, "papr")
    with pytest.raises(ConfigError, match="HardenConfig"):
        harden(tiny_encoder, striped, {"seed": 1})  # type: ignore[arg-type]


def test_feature_maps_and_output_objects_are_understood(striped: DataSplits) -> None:
    maps = load_encoder(nn.Conv2d(3, 5, 3))
    assert maps.feature_dim((16, 16)) == 5

    class Output:
        pooler_output = torch.zeros(2, 7)

    class Transformer(nn.Module):
        def forward(self, x: Tensor) -> Output:
            return Output()

    assert load_encoder(Transformer()).feature_dim((16, 16)) == 7
