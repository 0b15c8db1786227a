"""What is written for transformers gives our logits through that library's own pipeline; what cannot is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from genaf_sdk import HardenedModel, load_encoder
from genaf_sdk.cli import main
from genaf_sdk.errors import ConfigError, ExportError, OutputError
from genaf_sdk.export.transformers import write_transformers
from genaf_sdk.models.heads import build_head

library = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
PROCESSOR = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "size": 32, "resample": 3}


def encoders() -> dict[str, Any]:
    resnet = library.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    swin = library.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
    return {
        "vit": library.ViTModel(library.ViTConfig(**SMALL), add_pooling_layer=False),
        "resnet": library.ResNetModel(resnet),
        "swin": library.SwinModel(swin),
        "convnext": library.ConvNextModel(library.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
        "dinov2": library.Dinov2Model(library.Dinov2Config(**SMALL | {"mlp_ratio": 2})),
        "vit with a trained pooler": library.ViTModel(library.ViTConfig(**SMALL)),
    }


def model_on(kind: str, folder: Path, head: str = "linear") -> HardenedModel:
    torch.manual_seed(0)
    encoders()[kind].save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    encoder = load_encoder(str(folder))
    module = build_head(head, encoder.feature_dim((32, 32)), 3)
    return HardenedModel(encoder, module, class_names=("red", "green", "blue"), image_size=(32, 32)).eval()


@pytest.mark.parametrize("kind", ["vit", "resnet", "swin", "convnext", "dinov2"])
def test_the_pipeline_of_transformers_gives_our_answers(kind: str, tmp_path: Path) -> None:
    model = model_on(kind, tmp_path / "encoder")
    assert write_transformers(model, tmp_path / "written") < 1e-4
    classify = library.pipeline("image-classification", model=str(tmp_path / "written"), trust_remote_code=False)
    bytes_ = torch.randint(256, (3, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        scores = model(bytes_.permute(0, 3, 1, 2).float() / 255).softmax(dim=1)
    for image, expected in zip(bytes_, scores, strict=True):
        found = {entry["label"]: entry["score"] for entry in classify(Image.fromarray(image.numpy()))}
        ours = dict(zip(model.class_names, expected.tolist(), strict=True))
        assert found == pytest.approx(ours, abs=1e-4)
    files = {path.name for path in (tmp_path / "written").iterdir()}
    assert files == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert len(set(json.loads((tmp_path / "written" / "config.json").read_text())["architectures"])) == 1


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_picture_of_another_size_is_resized_almost_as_by_us(tmp_path: Path, interpolation: str) -> None:
    from genaf_sdk.export.serve.images import decode

    model = model_on("resnet", tmp_path / "encoder")
    model.encoder.interpolation = interpolation
    write_transformers(model, tmp_path / "written")
    noise = torch.randint(256, (12, 9, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).resize((90, 120), Image.Resampling.BICUBIC).save(tmp_path / "picture.png")
    own = decode((tmp_path / "picture.png").read_bytes(), (3, 32, 32), interpolation=interpolation)
    processor = library.AutoImageProcessor.from_pretrained(tmp_path / "written")
    theirs = processor(Image.open(tmp_path / "picture.png"), return_tensors="pt").pixel_values
    mean, std = model.encoder.mean, model.encoder.std
    off = (theirs * std + mean) * 255 - torch.from_numpy(own.copy()).permute(0, 3, 1, 2)
    assert float(off.abs().max()) <= 1.01, "at most one gray level, from rounding"


@pytest.mark.parametrize(
    ("kind", "head", "message"),
    [
        ("resnet", "mlp", "--head linear"),
        ("vit with a trained pooler", "linear", "differ from ours"),
    ],
)
def test_what_no_class_of_theirs_computes_is_refused(kind: str, head: str, message: str, tmp_path: Path) -> None:
    model = model_on(kind, tmp_path / "encoder", head)
    with pytest.raises(ExportError, match=message):
        write_transformers(model, tmp_path / "written")
    assert not (tmp_path / "written").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"], "nothing is left"


def test_encoders_of_other_libraries_are_refused() -> None:
    encoder = load_encoder("bundled:simclr-cifar10")
    head = build_head("linear", encoder.feature_dim((32, 32)), 3)
    model = HardenedModel(encoder, head, class_names="abc", image_size=(32, 32))
    with pytest.raises(ExportError, match="none of transformers"):
        write_transformers(model, Path("nowhere"))


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_on("resnet", tmp_path / "encoder").save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "--transformers", str(tmp_path / "written"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["transformers"]
    assert said["difference"] < 1e-4
    with pytest.raises(OutputError, match="not empty"):
        write_transformers(HardenedModel.from_pretrained(tmp_path / "model"), tmp_path / "written")


def test_a_run_takes_the_head_that_it_is_told(striped: Any, tiny_encoder: Any, quick_config: Any) -> None:
    from genaf_sdk import HardenConfig, harden

    with pytest.raises(ConfigError, match=r"no head 'liner'.*linear"):
        HardenConfig(head="liner")
    small = quick_config.with_(
        head="linear", method={"schedule": {"epochs": 1}}, baseline={"epochs": 1},
        evaluation={"attacks": ("pgd:steps=1",), "curve": (), "checks": False},
    )  # fmt: skip
    result = harden(tiny_encoder, striped, small, progress=False)
    assert type(result.model.head).__name__ == "LinearHead"
