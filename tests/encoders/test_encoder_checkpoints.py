"""Bare paths: weights whose architecture is passed, programs of torch.export, and pickles that must not run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoder_helpers import Bomb
from safetensors.torch import save_file
from torch import nn

from genaf_sdk.encoders import build_backbone, load_encoder
from genaf_sdk.encoders.small_resnet import SmallResNet
from genaf_sdk.errors import EncoderError
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.models.heads import build_head

STATED = {"mean": (0.5,), "std": (0.25,), "image_size": (32, 32)}


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_refused_and_does_not_run(suffix: str, legacy: bool, tmp_path: Path) -> None:
    proof, path = tmp_path / "executed", tmp_path / f"encoder{suffix}"
    content = {"state_dict": {"conv.weight": torch.zeros(1)}, "hyper_parameters": Bomb(proof)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(EncoderError, match=r"refused before any of it ran.*system") as caught:
        load_encoder(str(path), architecture="timm/test_vit", **STATED)
    assert "safetensors" in caught.value.remedy
    assert not proof.exists()
    torch.load(path, weights_only=False)  # noqa: TID251  # the bomb is real: read carelessly, it goes off
    assert proof.exists()


def test_a_malicious_program_is_not_read_unless_trusted(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt2"
    path.write_bytes(b"anything")
    with pytest.raises(EncoderError, match="trusted=True"):
        load_encoder(str(path), **STATED)
    with pytest.raises(EncoderError, match="cannot be read"):
        load_encoder(str(path), trusted=True, **STATED)


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "module.encoder_q.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_weights_find_their_architecture_wherever_they_lie(nested: str | None, prefix: str, tmp_path: Path) -> None:
    backbone = build_backbone("timm/test_resnet")
    state = {f"{prefix}{name}": value for name, value in backbone.state_dict().items()}
    if prefix:
        state[f"{prefix}fc.weight"] = torch.zeros(10, 96)
    path = tmp_path / "encoder.pth"
    torch.save(state if nested is None else {nested: state, "epoch": 3}, path)
    encoder = load_encoder(path, architecture="timm/test_resnet", **STATED)
    torch.testing.assert_close(encoder.backbone.state_dict(), backbone.state_dict())
    assert encoder.source == "checkpoint:timm/test_resnet"


def test_weights_without_the_counters_of_batch_normalization_are_read(tmp_path: Path) -> None:
    backbone = build_backbone("timm/test_resnet")
    state = {name: value for name, value in backbone.state_dict().items() if "num_batches_tracked" not in name}
    path = tmp_path / "encoder.safetensors"
    save_file(state, path)
    encoder = load_encoder(path, architecture="timm/test_resnet", **STATED)
    torch.testing.assert_close(encoder.backbone.state_dict(), backbone.state_dict())


def test_half_weights_are_loaded_in_single_precision(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file(build_backbone("timm/test_resnet").half().state_dict(), path)
    encoder = load_encoder(path, architecture="timm/test_resnet", **STATED)
    assert {value.dtype for value in encoder.parameters()} == {torch.float32}


def test_safetensors_need_what_they_do_not_state(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file(build_backbone("timm/test_resnet").state_dict(), path)
    with pytest.raises(EncoderError, match=r"architecture='timm/resnet18', mean=\(...\), std=\(...\), image_size"):
        load_encoder(str(path))
    with pytest.raises(EncoderError, match=r"'encoder.*', mean=\(...\), std=\(...\), image_size|, mean=\(...\)") as one:
        load_encoder(str(path), architecture="timm/test_resnet")
    assert "architecture=" not in one.value.remedy
    with pytest.raises(EncoderError, match="does not fit 'timm/test_vit'"):
        load_encoder(str(path), architecture="timm/test_vit", **STATED)
    assert load_encoder(str(path), architecture="timm/test_resnet", **STATED).feature_dim((32, 32)) == 96


def test_a_hardened_checkpoint_loads_without_the_file_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file(build_backbone("timm/test_resnet").state_dict(), path)
    encoder = load_encoder(str(path), architecture="timm/test_resnet", **STATED)
    model = HardenedModel(encoder, build_head("mlp", 96, 3), class_names="abc", image_size=(32, 32)).eval()
    model.save_pretrained(tmp_path / "bundle")
    path.unlink()
    loaded = HardenedModel.from_pretrained(tmp_path / "bundle")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images))
    with pytest.raises(EncoderError, match="without weights"):
        load_encoder(loaded.encoder.source)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be read"), (b"not a checkpoint", "cannot be read|refused"), (b"PK\x03\x04 cut", "cannot be read")],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused(content: bytes, message: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"encoder{suffix}"
    path.write_bytes(content)
    with pytest.raises(EncoderError, match=message):
        load_encoder(str(path))


@pytest.mark.parametrize(
    ("content", "message"), [([torch.zeros(1)], "holds a list"), ({"epoch": 3}, "its keys are epoch")]
)
def test_checkpoints_without_weights_are_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "encoder.pth"
    torch.save(content, path)
    with pytest.raises(EncoderError, match=message):
        load_encoder(str(path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_program_is_an_encoder_that_can_be_trained_and_copied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SmallResNet().eval()
    program = torch.export.export(
        network, (torch.rand(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    path = tmp_path / "encoder.pt2"
    torch.export.save(program, path)
    with pytest.raises(EncoderError, match="mean="):
        load_encoder(str(path), trusted=True)
    encoder = load_encoder(str(path), trusted=True, **STATED)
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), network((images - 0.5) / 0.25))
    model = HardenedModel(encoder, nn.Linear(192, 2), class_names="ab", image_size=(32, 32)).train()
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
