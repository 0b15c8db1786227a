"""The grammar of encoder ids, and the two libraries that need no checkpoint: timm and torchvision."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from urllib.error import URLError

import pytest
import timm
import torch
from huggingface_hub import constants
from torch import nn

from genaf_sdk.encoders import (
    SOURCES,
    EncoderOptions,
    Source,
    build_backbone,
    known_encoders,
    load_encoder,
)
from genaf_sdk.errors import EncoderError
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)


@pytest.mark.parametrize(
    ("encoder_id", "size", "features"),
    [
        ("bundled:simclr-cifar10", (32, 32), 192),
        ("timm/test_vit:random", (160, 160), 64),
        ("timm:test_vit:random", (160, 160), 64),
        ("timm/test_resnet:random,image_size=48x64", (48, 64), 96),
        ("timm/test_vit:random,channels=4,image_size=64x96", (64, 96), 64),
        ("torchvision:squeezenet1_1:random", None, 0),
        ("torchvision:shufflenet_v2_x0_5:random", (224, 224), 1024),
        ("torchvision:googlenet:random", (224, 224), 1024),
    ],
)
def test_every_id_loads_and_what_it_stores_rebuilds_it(encoder_id: str, size, features: int) -> None:
    if size is None:
        with pytest.raises(EncoderError, match="ends in no linear layer"):
            load_encoder(encoder_id)
        return
    encoder = load_encoder(encoder_id)
    assert encoder.image_size == size
    assert encoder.feature_dim(size) == features
    rebuilt = PixelEncoder(build_backbone(encoder.source), channels=encoder.channels).eval()
    rebuilt.backbone.load_state_dict(encoder.backbone.state_dict())
    images = torch.rand(2, encoder.channels, *size)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt((images - encoder.mean) / encoder.std), encoder(images))


def test_normalisation_size_and_interpolation_are_the_models_own() -> None:
    encoder = load_encoder("timm/test_vit:random")
    config = timm.get_pretrained_cfg("test_vit")
    assert encoder.mean.flatten().tolist() == pytest.approx(config.mean)
    assert encoder.std.flatten().tolist() == pytest.approx(config.std)
    assert (encoder.image_size, encoder.interpolation) == (config.input_size[1:], config.interpolation)


def test_arguments_take_the_place_of_the_models_own() -> None:
    encoder = load_encoder("timm/test_vit:random", mean=(0.1,), std=(0.2,), image_size=(32, 48))
    assert (float(encoder.mean), float(encoder.std)) == pytest.approx((0.1, 0.2))
    assert encoder.feature_dim((32, 48)) == 64
    assert "image_size=32x48" in encoder.source


def test_four_bands_ask_for_a_normalisation_of_four() -> None:
    with pytest.raises(EncoderError, match="is for 3 channels, the images have 4"):
        load_encoder("timm/resnet18:random", channels=4)
    encoder = load_encoder("timm/resnet18:random", channels=4, mean=(0.5,) * 4, std=(0.2,) * 4)
    assert encoder.feature_dim((32, 32)) == 512
    assert build_backbone(encoder.source).conv1.in_channels == 4


def test_a_timm_module_is_normalised_by_its_own_configuration() -> None:
    module = timm.create_model("test_vit", num_classes=0, img_size=(32, 64)).eval()
    encoder = load_encoder(module)
    images = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), module((images - 0.5) / 0.5))
    assert encoder.image_size == (32, 64)


def test_any_other_module_is_a_function_of_pixels(tiny_encoder: nn.Module) -> None:
    tiny_encoder.train()
    encoder = load_encoder(tiny_encoder)
    assert (encoder.source, encoder.image_size) == ("", None)
    assert tiny_encoder.training, "the module is left as it was"
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(encoder.eval()(images), tiny_encoder(images))


@pytest.mark.parametrize("name", ["timm/test_vit:random,image_size=32x48", "bundled:simclr-cifar10"])
def test_hardened_models_of_ids_load_without_their_module(name: str, tmp_path) -> None:
    encoder = load_encoder(name)
    size = encoder.image_size or (32, 32)
    model = HardenedModel(
        encoder, build_head("mlp", encoder.feature_dim(size), 3), class_names="abc", image_size=size
    ).eval()
    model.save_pretrained(tmp_path)
    loaded = HardenedModel.from_pretrained(tmp_path)
    assert loaded.encoder.interpolation == encoder.interpolation
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images))
    again = load_encoder(str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(again(images), encoder(images))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("reznet18", "try torchvision:resnet18"),
        ("timm/resnet1", "try timm/resnet18"),
        ("timm/resnet18.nothing", "timm/resnet18.a1_in1k"),
        ("timm/resnet18:trained", "timm/NAME:random"),
        ("timm/resnet18:random,depth=3", "channels, image_size"),
        ("timm/test_vit:random,image_size=12", "HEIGHTxWIDTH"),
        ("timm/test_vit:random,channels=0", "at least 1"),
        ("timm/resnet18:random,image_size=axb", "HEIGHTxWIDTH"),
        ("torchvision:resnet18:V7", "IMAGENET1K_V1"),
        ("torchvision:resnet0", "no classifier 'resnet0'"),
        ("bundled:other", "bundled:simclr-cifar10"),
        ("./no/such/folder", "folder with config.json"),
        ("no/such.ckpt", "no checkpoint.*correct the path"),
        (3, "is a int"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_spellings_that_work(encoder: object, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        load_encoder(encoder)  # type: ignore[arg-type]


def test_one_of_mean_and_std_is_not_enough(tiny_encoder: nn.Module) -> None:
    with pytest.raises(EncoderError, match="Only one of mean and std"):
        load_encoder(tiny_encoder, mean=(0.5,))


@pytest.mark.parametrize("encoder_id", ["torchvision:resnet18", "bundled:simclr-cifar10"])
def test_sources_of_three_channels_say_so(encoder_id: str) -> None:
    with pytest.raises(EncoderError, match="3 channels, not 1"):
        load_encoder(encoder_id, channels=1)


@pytest.mark.parametrize(
    ("encoder_id", "to_fetch"),
    [
        ("timm/resnet18", "hf download timm/resnet18.a1_in1k"),
        ("torchvision:resnet18", r"fetch https://download.pytorch.org/models/resnet18-\w+.pth"),
        ("hf-hub:some/model", "hf download some/model"),
        ("some/model", "hf download some/model"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_without_network_the_error_says_what_to_fetch_and_where_it_goes(encoder_id: str, to_fetch: str) -> None:
    with pytest.raises(EncoderError, match=to_fetch) as caught:
        load_encoder(encoder_id)
    assert caught.value.remedy


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_an_architecture_scales_its_images_as_with_its_weights(name: str) -> None:
    """torchvision has these two scale their images, but for random weights."""
    with torch.device("meta"):
        assert build_backbone(f"torchvision:{name}").transform_input
        assert not build_backbone(f"torchvision:{name}:random").transform_input


@pytest.mark.parametrize(("weights", "tokens"), [("", 197), (":IMAGENET1K_SWAG_E2E_V1", 577), (":random", 197)])
def test_an_architecture_has_the_image_size_of_its_weights(weights: str, tokens: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(f"torchvision:vit_b_16{weights}")
    assert backbone.state_dict()["encoder.pos_embedding"].shape == (1, tokens, 768)


def test_building_and_listing_never_ask_the_network() -> None:
    build_backbone("timm/resnet18.a1_in1k")
    build_backbone("torchvision:shufflenet_v2_x0_5")
    listed = known_encoders()
    assert {entry.source for entry in listed} >= {"bundled", "timm", "torchvision", "hub", "solo-learn", "checkpoint"}
    assert len({entry.id for entry in listed}) == len(listed)
    by_id = {entry.id: entry for entry in listed}
    assert by_id["timm/vit_small_patch14_dinov2.lvd142m"].license == "apache-2.0"
    assert by_id["torchvision:resnet18"].parameters == 11_689_512
    assert by_id["torchvision:resnet18"].image_size == (224, 224)
    assert by_id["timm/vit_small_patch14_dinov2.lvd142m"].image_size == (518, 518)


@pytest.mark.parametrize("how", ["a line", "an entry point"])
def test_a_source_is_added_by_one_line_or_entry_point(
    how: str, monkeypatch: pytest.MonkeyPatch, tiny_encoder: nn.Module
) -> None:
    def load(name: str, options: EncoderOptions) -> PixelEncoder:
        return options.encoder(tiny_encoder, source=f"ours:{name}")

    ours = Source("ours", load, lambda name: type(tiny_encoder)(), list)
    monkeypatch.setattr(SOURCES, "_items", dict(SOURCES.items()))
    if how == "a line":
        SOURCES.register(ours)
    else:
        entry = EntryPoint("ours", "some.package:ours", SOURCES.group)
        monkeypatch.setattr(EntryPoint, "load", lambda self: ours)
        monkeypatch.setattr(
            "genaf_sdk.registry.entry_points", lambda group: [entry] if group == "genaf_sdk.encoders" else []
        )
    assert load_encoder("ours:tiny").source == "ours:tiny"
    assert isinstance(build_backbone("ours:tiny"), type(tiny_encoder))
