"""A module of the caller's own: unwrapped, in float32, normalized as it states, and no classifier."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from genaf_sdk.encoders import load_encoder
from genaf_sdk.errors import EncoderError
from genaf_sdk.inputs.images import ImageSpace

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def carrying(**attributes: object) -> nn.Module:
    module = small()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled])
def test_wrappers_are_taken_off_at_the_door(wrap) -> None:
    module = timm.create_model("test_resnet", num_classes=0)
    encoder = load_encoder(wrap(module))
    assert encoder.backbone is module
    assert encoder.mean.flatten().tolist() == pytest.approx(timm.get_pretrained_cfg("test_resnet").mean)


def test_half_weights_are_used_in_single_precision() -> None:
    module = small()
    expected = load_encoder(small().half().float()).eval()
    encoder = load_encoder(module.half()).eval()
    pixels = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(encoder(pixels), expected(pixels))
    assert module[0].weight.dtype == torch.half, "the module is left as it was"


@pytest.mark.parametrize(
    ("attributes", "mean", "size"),
    [
        ({"default_cfg": {**IMAGENET, "input_size": (3, 16, 24), "interpolation": "bicubic"}}, 0.485, (16, 24)),
        ({"image_mean": CLIP[0], "image_std": CLIP[1], "image_size": (16, 24)}, CLIP[0][0], (16, 24)),
        ({"image_mean": CLIP[0], "image_std": CLIP[1], "image_size": 16}, CLIP[0][0], (16, 16)),
        ({"image_mean": CLIP[0], "image_std": CLIP[1]}, CLIP[0][0], None),
    ],
)
def test_a_stated_normalization_is_used(attributes: dict, mean: float, size: tuple[int, int] | None) -> None:
    encoder = load_encoder(carrying(**attributes))
    assert (float(encoder.mean[0, 0]), encoder.image_size) == (pytest.approx(mean), size)


@pytest.mark.parametrize("config", [{"mean": (0.5,)}, {**IMAGENET, "input_size": 3, "interpolation": "bilinear"}, 7])
def test_a_stated_normalization_that_cannot_be_read_is_named(config: object) -> None:
    with pytest.raises(EncoderError, match="cannot be read"):
        load_encoder(carrying(pretrained_cfg=config))


BYTES = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


def test_means_in_bytes_are_refused() -> None:
    with pytest.raises(EncoderError, match=r"not those of pixels in \[0, 1\].*divide"):
        load_encoder(small(), **BYTES)
    with pytest.raises(EncoderError, match="not those of pixels"):
        load_encoder(carrying(pretrained_cfg={**BYTES, "input_size": (3, 16, 16), "interpolation": "bilinear"}))


@pytest.mark.parametrize(
    ("mean", "std"), [(np.array(IMAGENET["mean"]), np.array(IMAGENET["std"])), (torch.tensor(0.5).view(1), 0.25)]
)
def test_arrays_tensors_and_single_numbers_are_taken(mean: object, std: object) -> None:
    encoder = load_encoder(small(), mean=mean, std=std)
    assert encoder.mean.dtype == torch.float32
    encoder.feature_dim((16, 16))


@pytest.mark.parametrize("mean", ["half", (None,), (float("nan"),) * 3, ("a", "b", "c")])
def test_what_is_no_number_is_refused(mean: object) -> None:
    with pytest.raises(EncoderError, match="mean is"):
        load_encoder(small(), mean=mean, std=(0.5,) * 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: timm.create_model("test_resnet", num_classes=7), "classifier of 7 classes.*num_classes=0"),
        (lambda: torchvision.models.squeezenet1_1(), "classifier of torchvision.*Identity"),
        (lambda: torchvision.models.shufflenet_v2_x0_5(), "classifier of torchvision"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(8)), "lazy layers.*run it once"),
    ],
)
def test_what_is_no_encoder_yet_is_refused(make, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        load_encoder(make())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_programs_and_weights_without_values_are_refused_at_the_door() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.rand(2, 3, 16, 16)
    for program in (torch.jit.script(module), torch.jit.trace(module, images), nn.Sequential(torch.jit.script(module))):
        with pytest.raises(EncoderError, match="program of TorchScript"):
            load_encoder(program)
    with pytest.raises(EncoderError, match="has no training mode"):
        load_encoder(torch.export.export(module, (images,)).module())
    with pytest.raises(EncoderError, match="device 'meta'"):
        load_encoder(copy.deepcopy(module).to("meta"))


def test_without_its_head_a_model_of_torchvision_is_taken() -> None:
    model = torchvision.models.shufflenet_v2_x0_5()
    model.fc = nn.Identity()
    assert load_encoder(model, image_size=(64, 64)).feature_dim((64, 64)) == 1024


def test_frozen_parameters_stay_frozen() -> None:
    module = small()
    module[0].requires_grad_(False)
    assert not load_encoder(module).backbone[0].weight.requires_grad


def test_a_forward_that_refers_to_the_module_is_refused() -> None:
    module = small()
    original = type(module).forward
    module.forward = lambda images: original(module, images)
    with pytest.raises(EncoderError, match="weights of the original"):
        load_encoder(module)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_norm_that_its_owner_keeps_in_eval_mode_stays_there(precision: torch.dtype) -> None:
    module = small().to(precision).train()
    module[1].eval()
    encoder = load_encoder(module)
    for taken in (module, encoder.backbone):
        assert [part.training for part in taken.modules()] == [True, True, False, True, True, True]


def test_maps_whose_channels_come_last_are_no_features() -> None:
    small_swin = {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2)}
    name = "swin_tiny_patch4_window7_224"
    encoder = load_encoder(timm.create_model(name, num_classes=0, global_pool="", **small_swin))
    with pytest.raises(EncoderError, match=r"\(2, 4, 4, 48\), whose channels come last.*global_pool='avg'"):
        encoder.feature_dim((32, 32))
    assert load_encoder(timm.create_model(name, num_classes=0, **small_swin)).feature_dim((32, 32)) == 48


def test_a_view_of_maps_is_refused_with_what_takes_its_place() -> None:
    """Maps have their channels side by side here, and a view needs them one after the other."""

    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 8, 3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convolution(x).view(len(x), -1)

    encoder = ImageSpace((3, 8, 8)).placed(load_encoder(Viewing()))
    with pytest.raises(EncoderError, match=r"refuses images.*flatten\(1\)"):
        encoder.feature_dim((8, 8))


def test_features_in_double_precision_are_refused() -> None:
    class Double(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)).double()

    with pytest.raises(EncoderError, match="float64"):
        load_encoder(Double()).feature_dim((8, 8))


@pytest.mark.parametrize(
    ("name", "value"),
    [("mean", 0.5), ("image_size", (8, 8)), ("channels", 1), ("architecture", "timm/resnet18")],
)
def test_what_an_encoder_states_itself_is_not_passed_over_in_silence(name: str, value: object) -> None:
    encoder = load_encoder(small(), mean=0.4, std=0.2)
    options = {name: value, **({"std": 0.5} if name == "mean" else {})}
    with pytest.raises(EncoderError, match=rf"{name} is .*PixelEncoder, which states its own.*backbone"):
        load_encoder(encoder, **options)
    assert load_encoder(encoder, channels=3) is encoder
