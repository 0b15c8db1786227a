"""Folders and Hub repositories: timm's, those of transformers, and models that this package hardened."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
from encoder_helpers import Bomb
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.models import save_for_hf
from torch import nn

from genaf_sdk.encoders import build_backbone, load_encoder, repository, transformers
from genaf_sdk.errors import EncoderError, ExportError
from genaf_sdk.export.integrity import seal
from genaf_sdk.export.parity import check_parity
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head

PROCESSOR = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "size": 32, "resample": 3}


def round_trip(encoder: PixelEncoder, folder: Path) -> None:
    """Harden nothing, save, load without network, and compare."""
    size = encoder.image_size
    model = HardenedModel(
        encoder, build_head("mlp", encoder.feature_dim(size), 3), class_names="abc", image_size=size
    ).eval()
    model.save_pretrained(folder)
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(HardenedModel.from_pretrained(folder)(images), model(images))


@pytest.fixture
def hub_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Serve a folder as the Hub repository some/model."""

    def serve(folder: Path) -> None:
        def download(repository_id: str, filename: str, revision: str | None = None) -> str:
            assert repository_id == "some/model"
            if not (folder / filename).is_file():
                raise LocalEntryNotFoundError(filename)
            return str(folder / filename)

        monkeypatch.setattr(repository, "hf_hub_download", download)

    return serve


def test_a_hardened_model_of_the_hub_is_held_against_its_list(hub_of, tmp_path: Path) -> None:
    encoder = load_encoder("bundled:simclr-cifar10")
    head = build_head("mlp", encoder.feature_dim((32, 32)), 3)
    HardenedModel(encoder, head, class_names="abc", image_size=(32, 32)).save_pretrained(tmp_path)
    hub_of(tmp_path)
    assert load_encoder("some/model").source == "bundled:simclr-cifar10", "without a list it is no bundle"
    seal(tmp_path)
    assert load_encoder("some/model").source == "bundled:simclr-cifar10"
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(ExportError, match=r"config\.json .*is not the file that was written"):
        load_encoder("some/model")


def test_a_folder_of_timm_is_read_by_timms_own_loader(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32, num_classes=5).eval()
    save_for_hf(model, tmp_path / "model", model_args={"img_size": 32})
    encoder = load_encoder(str(tmp_path / "model"))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features((images - 0.5) / 0.5), pre_logits=True)
        torch.testing.assert_close(encoder(images), expected)
    assert encoder.interpolation == "bicubic"
    assert encoder.image_size == (32, 32)
    round_trip(encoder, tmp_path / "bundle")


def test_a_hub_id_of_a_hardened_model_can_be_hardened_again(hub_of, tmp_path: Path) -> None:
    encoder = load_encoder("bundled:simclr-cifar10")
    model = HardenedModel(encoder, build_head("mlp", 192, 3), class_names="abc", image_size=(32, 32)).eval()
    model.save_pretrained(tmp_path / "bundle")
    hub_of(tmp_path / "bundle")
    again = load_encoder("some/model")
    torch.testing.assert_close(again.state_dict(), encoder.state_dict())
    assert again.source == "bundled:simclr-cifar10"


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"config\.json and model\.safetensors"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(EncoderError, match="no JSON object"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"task": "text"}')
    with pytest.raises(EncoderError, match="its keys are task"):
        load_encoder(str(tmp_path))
    stated: dict[str, object] = {"input_size": [3, 8, 8], "mean": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": stated}))
    with pytest.raises(EncoderError, match="states no 'std'"):
        load_encoder(str(tmp_path))
    stated["std"] = [0.5] * 3
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": stated}))
    with pytest.raises(EncoderError, match="timm cannot load"):
        load_encoder(str(tmp_path))


def test_pickled_weights_of_a_timm_folder_are_not_executed(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", img_size=32)
    save_for_hf(model, tmp_path, model_args={"img_size": 32}, safe_serialization=False)
    assert not list(tmp_path.glob("*.safetensors"))
    encoder = load_encoder(str(tmp_path))
    torch.testing.assert_close(encoder.backbone.blocks.state_dict(), model.blocks.state_dict())
    torch.save({"cls_token": torch.zeros(1), "extra": Bomb(tmp_path / "executed")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="timm cannot load"):
        load_encoder(str(tmp_path))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["some/model", "some/model:{broken", 'some/model:{"library":"other"}'])
def test_an_id_without_a_description_cannot_be_rebuilt(name: str) -> None:
    with pytest.raises(EncoderError, match=r"does not describe|is damaged"):
        build_backbone(f"hf-hub:{name}")


def test_without_transformers_the_pip_command_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(EncoderError, match=r"pip install 'genaf-sdk\[transformers\]'"):
        load_encoder(str(tmp_path))
    with pytest.raises(EncoderError, match="pip install"):
        build_backbone('hf-hub:some/model:{"library":"transformers"}')


SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


def towers() -> dict[str, tuple[nn.Module, str]]:
    library = pytest.importorskip("transformers")
    vision = library.CLIPVisionConfig(**SMALL, projection_dim=16)
    text = library.CLIPTextConfig(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
    )
    clip = library.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    resnet = library.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return {
        "vit": (library.ViTModel(library.ViTConfig(**SMALL)), "pooler_output"),
        "vit without pooling": (library.ViTModel(library.ViTConfig(**SMALL), add_pooling_layer=False), "first_token"),
        "vit classifier": (library.ViTForImageClassification(library.ViTConfig(**SMALL)), "first_token"),
        "clip": (library.CLIPModel(clip), "image_embeds"),
        "clip tower": (library.CLIPVisionModelWithProjection(vision), "image_embeds"),
        "resnet": (library.ResNetModel(resnet), "pooler_output"),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["vit", "vit without pooling", "vit classifier", "clip", "clip tower", "resnet"])
@pytest.mark.parametrize("place", ["folder", "hub"])
def test_models_of_transformers(kind: str, place: str, hub_of, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, features = towers()[kind]
    folder = tmp_path / "model"
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    hub_of(folder)
    encoder = load_encoder(str(folder) if place == "folder" else "hf-hub:some/model")
    assert (encoder.image_size, encoder.interpolation) == ((32, 32), "bicubic")
    assert encoder.backbone.features == features
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(PROCESSOR[key]).view(1, 3, 1, 1) for key in ("image_mean", "image_std"))
    pixels = (images - mean) / std
    with torch.no_grad():
        if kind == "clip":
            expected = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        elif features == "first_token":
            trunk = getattr(model, "vit", model)
            expected = trunk(pixel_values=pixels).last_hidden_state[:, 0]
        else:
            expected = getattr(model(pixel_values=pixels), features).flatten(1)
        torch.testing.assert_close(encoder(images), expected)
    shutil.rmtree(folder)
    round_trip(encoder, tmp_path / "bundle")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["vit", "clip", "resnet"])
def test_models_of_transformers_take_images_of_other_sizes(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    towers()[kind][0].eval().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    encoder = load_encoder(str(tmp_path / "model"), image_size=(48, 64))
    own = load_encoder(str(tmp_path / "model"))
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), own(images))
    round_trip(encoder, tmp_path / "bundle")
    model = HardenedModel.from_pretrained(tmp_path / "bundle")
    path = export_onnx(model, tmp_path / "model.onnx")
    check_parity(model, path, torch.rand(5, 3, 48, 64))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("place", ["folder", "hub"])
def test_transformers_without_a_processor_ask_for_the_normalisation(place: str, hub_of, tmp_path: Path) -> None:
    towers()["vit"][0].save_pretrained(tmp_path)
    hub_of(tmp_path)
    name = str(tmp_path) if place == "folder" else "some/model"
    with pytest.raises(EncoderError, match="does not state its normalization"):
        load_encoder(name)
    encoder = load_encoder(name, mean=(0.5,), std=(0.5,))
    assert encoder.image_size == (32, 32)
    assert isinstance(encoder.backbone, transformers.TransformersEncoder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_processor_that_does_not_normalise_means_pixels_as_they_are(tmp_path: Path) -> None:
    towers()["vit"][0].save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "do_normalize": False}))
    encoder = load_encoder(str(tmp_path))
    assert (float(encoder.mean), float(encoder.std)) == (0, 1)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_flip_channel_order": True}))
    with pytest.raises(EncoderError, match="blue, green, red"):
        load_encoder(str(tmp_path))
