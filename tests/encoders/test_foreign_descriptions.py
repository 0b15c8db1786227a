"""A foreign model says which encoder it has: what it says is refused or built, and leads nowhere else."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from genaf_sdk.encoders import build_backbone, load_encoder, own_source, repository
from genaf_sdk.errors import EncoderError, GenafError, OutputError
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head
from genaf_sdk.models.storage import CONFIG_FILE


@pytest.fixture(autouse=True)
def nothing_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"the network or a process is asked for: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


def timm_id(name: str = "test_resnet", **arguments: Any) -> str:
    return "hf-hub:o/n:" + json.dumps({"library": "timm", "name": name, "arguments": arguments})


def transformers_id(**config: Any) -> str:
    return "hf-hub:o/n:" + json.dumps({"library": "transformers", "features": "pooler_output", "config": config})


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_path": "/etc/passwd"},
        {"pretrained": True},
        {"model": "x"},
        {"cache_dir": "x"},
        {"pretrained_cfg": {"url": "https://e.invalid"}},
        {"layers": [400] * 4},
        {"layers": 10**9},
        {"embed_dim": 10**9},
        {"act_layer": "../x"},
        {"norm_layer": {"a": 1}},
        {"img_size": [8] * 1000},
        {"drop_rate": "0.1"},
        {"class_token": "yes"},
    ],
)
def test_arguments_of_timm_that_are_no_architecture_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(EncoderError, match="not passed on"):
        build_backbone(timm_id(**arguments))


@pytest.mark.parametrize("arguments", [[], "x", 3])
def test_arguments_that_are_no_object_are_refused(arguments: object) -> None:
    text = json.dumps({"library": "timm", "name": "test_resnet", "arguments": arguments})
    with pytest.raises(EncoderError, match="not passed on"):
        build_backbone(f"hf-hub:o/n:{text}")


def test_arguments_of_an_architecture_are_passed_on() -> None:
    vit = build_backbone(timm_id("test_vit", img_size=[32, 48], in_chans=4, drop_path_rate=0.1, global_pool="avg"))
    assert vit.patch_embed.img_size == (32, 48)
    assert vit.patch_embed.proj.in_channels == 4


@pytest.mark.parametrize("name", ["hf-hub:evil/repo", "local-dir:/tmp", "none", ""])
def test_names_that_are_no_model_of_timm_are_refused(name: str) -> None:
    with pytest.raises(EncoderError, match="timm has no model"):
        build_backbone(timm_id(name))


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32}


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "upernet", "backbone": "evil/model"},
        {"model_type": "maskformer", "backbone": "evil/model", "use_pretrained_backbone": True},
        {"model_type": "timm_backbone", "backbone": "hf-hub:evil/model"},
        {"model_type": "timm_wrapper", "architecture": "resnet18", "checkpoint_path": "/etc/passwd"},
        {"model_type": "gpt2"},
        {"model_type": "dpt"},
        {"model_type": "no_such"},
        {"model_type": 3},
        {"model_type": "vit", **SMALL, "attn_implementation": "org/kernel"},
        {"model_type": "vit", **SMALL, "_attn_implementation": "org/kernel"},
        {"model_type": "vit", **SMALL, "quantization_config": {"load_in_8bit": True}},
        {"model_type": "vit", **SMALL, "hidden_size": 10**9},
        {"model_type": "vit", **SMALL, "num_hidden_layers": 10**4},
        {"model_type": "vit", **SMALL, "hidden_act": "../x"},
        {"model_type": "vit", **SMALL, "hidden_size": "32"},
        {"model_type": "vit", **SMALL, "hidden_size": [[[1]]]},
        None,
    ],
)
def test_settings_of_transformers_that_lead_elsewhere_are_refused(config: Any) -> None:
    pytest.importorskip("transformers")
    text = transformers_id(**config) if config else 'hf-hub:o/n:{"library":"transformers","features":"pooler_output"}'
    with pytest.raises(EncoderError):
        build_backbone(text)


def test_settings_of_an_architecture_of_transformers_are_passed_on() -> None:
    pytest.importorskip("transformers")
    config = {"model_type": "vit", **SMALL, "auto_map": {"AutoModel": "evil--code.Model"}, "attn_implementation": None}
    backbone = build_backbone(transformers_id(**config))
    assert type(backbone.model).__name__ == "ViTModel"
    assert backbone.model.config.hidden_size == 32


@pytest.mark.parametrize(
    "encoder_id",
    [
        "checkpoint:" * 3000 + "timm/test_resnet",
        "checkpoint:checkpoint:timm/test_resnet",
        "x.pt",
        "checkpoint:x.pt",
        ".",
        "/etc/passwd",
        "o/n",
        "timm",
        "",
        "hf-hub:o/n:" + "[" * 100_000,
        "hf-hub:o/n:[]",
        "hf-hub:o/n:3",
    ],
)
def test_what_names_no_architecture_is_refused_at_once(encoder_id: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(EncoderError):
        build_backbone(encoder_id)


@pytest.fixture(scope="module")
def model() -> HardenedModel:
    torch.manual_seed(0)
    encoder = load_encoder("timm/test_resnet:random", image_size=(32, 32))
    return HardenedModel(encoder, build_head("linear", 96, 3), class_names="abc", image_size=(32, 32))


def changed(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | changes))
    return folder


def test_an_architecture_that_does_not_fit_the_weights_takes_no_memory(
    model: HardenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """68 GB of position embeddings, of which nothing may be allocated."""
    model.save_pretrained(tmp_path)
    real = torch.zeros

    def zeros(*size: Any, **options: Any) -> torch.Tensor:
        made = real(*size, **options)
        assert made.is_meta or made.numel() < 10**8
        return made

    monkeypatch.setattr(torch, "zeros", zeros)
    started = time.monotonic()
    with pytest.raises(OutputError, match="do not fit together"):
        HardenedModel.from_pretrained(
            changed(tmp_path, encoder="solo-learn:vit_large:image_size=4096x4096,patch_size=1")
        )
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": [10**9, 10**9]},
        {"image_size": [-1, 0]},
        {"image_size": [32]},
        {"encoder_image_size": [0, 0]},
        {"mean": ["a"]},
        {"mean": [1e400]},
        {"mean": [123.7] * 3, "std": [58.4] * 3},
        {"interpolation": "x"},
        {"channels": 0},
        {"channels": True},
        {"class_names": ["a", "\x1b[2J", "c"]},
        {"class_names": ["a", "a", "a"]},
        {"class_names": ["a", 3, "c"]},
        {"class_names": "abc"},
        {"encoder": 3},
        {"encoder": None},
        {"encoder": "timm/test_vit"},
        {"encoder": "timm/test_resnet:image_size=axb"},
        {"encoder": "torchvision:squeezenet1_1"},
        {"head": []},
        {"head": {"name": "linear", "feature_dim": 10**9}},
        {"head": {"name": "linear", "feature_dim": "96"}},
        {"head": {"name": "linear", "feature_dim": 96, "device": "cuda:7"}},
        {"head": {"name": "mlp", "feature_dim": 96, "dropout": []}},
        {"head": {"name": ["linear"], "feature_dim": 96}},
    ],
)
def test_a_config_that_was_changed_is_refused(changes: dict[str, Any], model: HardenedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(GenafError) as caught:
        HardenedModel.from_pretrained(changed(tmp_path, **changes))
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    "changes",
    [
        {"model_args": {"checkpoint_path": "/etc/passwd"}},
        {"model_args": [1]},
        {"architecture": "hf-hub:evil/model"},
        {"pretrained_cfg": {"input_size": "x", "mean": [0.5] * 3, "std": [0.5] * 3}},
        {"pretrained_cfg": {"input_size": [3, 32, -1], "mean": [0.5] * 3, "std": [0.5] * 3}},
        {"pretrained_cfg": {"input_size": [3, 32, 32], "mean": "abc", "std": [0.5] * 3}},
        {"pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": [1]}},
        {"pretrained_cfg": [1]},
    ],
)
def test_a_changed_folder_of_timm_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    save_for_hf(timm.create_model("test_resnet"), tmp_path)
    with pytest.raises(EncoderError):
        load_encoder(str(changed(tmp_path, **changes)))


def test_an_adapter_beside_a_model_of_transformers_is_refused(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers")
    library.ViTModel(library.ViTConfig(**SMALL)).save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
    with pytest.raises(EncoderError, match="adapter"):
        load_encoder(str(tmp_path), mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(
    ("encoder_id", "named"),
    [
        ("torchvision:resnet18", "torchvision:resnet18"),
        ('hf-hub:evil/repo:{"library":"timm"}', "hf-hub:evil/repo"),
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
    ],
)
def test_what_a_model_was_made_from_is_not_loaded_unasked(encoder_id: str, named: str) -> None:
    with pytest.raises(EncoderError) as caught:
        own_source(encoder_id)
    assert caught.value.remedy.endswith(f"--encoder {named}")


def test_what_lies_in_the_package_is() -> None:
    assert own_source("bundled:simclr-cifar10") == "bundled:simclr-cifar10"
    assert own_source("") == ""


def test_evaluate_asks_for_the_encoder_that_a_foreign_model_names(
    model: HardenedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from genaf_sdk.cli import main

    model.save_pretrained(tmp_path / "model")
    assert main(["evaluate", str(tmp_path / "model")]) == 2
    assert "pass --encoder timm/test_resnet" in " ".join(capsys.readouterr().err.split())


def test_the_commit_of_a_hub_encoder_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, asked = "0123456789abcdef" * 2 + "01234567", []
    folder = tmp_path / "models--some--model" / "snapshots" / commit
    save_for_hf(timm.create_model("test_resnet"), folder)

    def download(repository_id: str, filename: str, revision: str | None = None) -> str:
        asked.append(revision)
        return str(folder / filename)

    def create(place: str, **options: Any) -> nn.Module:
        asked.append(place.partition("@")[2])
        return real(f"local-dir:{folder}" if place.startswith("hf-hub:") else place, **options)

    real = timm.create_model
    monkeypatch.setattr(repository, "hf_hub_download", download)
    monkeypatch.setattr(timm, "create_model", create)
    encoder: PixelEncoder = load_encoder("some/model@main")
    assert encoder.source.startswith(f"hf-hub:some/model@{commit}:")
    assert asked[0] == "main"
    assert set(asked[1:]) == {commit}, "all that follows is of that commit"
    build_backbone(encoder.source)
