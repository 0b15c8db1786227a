"""Families of encoders, each with every defect: all are named before training, and no sound encoder is refused."""

from __future__ import annotations

import copy
import random
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from genaf_sdk import HardenConfig, load_data
from genaf_sdk.data import DataSplits
from genaf_sdk.pipeline import check
from genaf_sdk.preflight import Finding

SIZE, WIDTH = 32, 12


# Families: pixels (N, 3, 32, 32) to features (N, 12).


def head() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, WIDTH)]


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), *head())


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.BatchNorm2d(8), nn.ReLU(), *head())


def group_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.GroupNorm(2, 8), nn.SiLU(), *head())


class Residual(nn.Module):
    """A block that adds what it was given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def residual() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
    return nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), Residual(block), nn.ReLU(), *head())


def depthwise() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 1))
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), Residual(block), *head())


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of maps (N, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def layer_norm() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(8, 8, 7, 1, 3, groups=8), ChannelNorm(8), nn.Conv2d(8, 16, 1), nn.GELU())
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), Residual(nn.Sequential(*block, nn.Conv2d(16, 8, 1))), *head())


class Attention(nn.Module):
    """A small vision transformer for images of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (SIZE // 8) ** 2 + 1, WIDTH))
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.1, batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        return self.block(tokens)[:, 0]


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "batch norm": batch_norm,
    "group norm": group_norm,
    "residual": residual,
    "depthwise": depthwise,
    "layer norm": layer_norm,
    "attention": Attention,
}


class Around(nn.Module):
    """An encoder and what somebody does around it."""

    def __init__(self, body: nn.Module, work: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.work = body, work
        self.register_buffer("mean", torch.zeros(WIDTH), persistent=False)
        self.register_buffer("count", torch.zeros(()))
        self.memory: Any = 0.0

    def forward(self, x: Tensor) -> Any:
        return self.work(self, x)


# Defects. Each is a function of the module and its input, or of the body, and is named by the words beside it.


def dropout(self: Around, x: Tensor) -> Tensor:
    return F.dropout(self.body(x), 0.5)


def rare_dropout(self: Around, x: Tensor) -> Tensor:
    return self.body(x) * (torch.rand(len(x), 1) > 0.05)  # as a layer that is dropped in one pass of twenty


def noise(self: Around, x: Tensor) -> Tensor:
    return self.body(x + 0.1 * torch.randn_like(x))


def noise_of_numpy(self: Around, x: Tensor) -> Tensor:
    return self.body(x) + float(np.random.standard_normal())  # noqa: NPY002  # what encoders use


def noise_of_python(self: Around, x: Tensor) -> Tensor:
    return self.body(x) * (1 if random.random() > 0.3 else 2)  # no secret


def centered(self: Around, x: Tensor) -> Tensor:
    features = self.body(x)
    return features - features.mean(0)


def batch_statistics(self: Around, x: Tensor) -> Tensor:
    return F.batch_norm(self.body(x), None, None, training=True) if len(x) > 1 else self.body(x)


def softmax_over_the_batch(self: Around, x: Tensor) -> Tensor:
    return self.body(x).softmax(0)


def mixes_neighbors(self: Around, x: Tensor) -> Tensor:
    return self.body(0.9 * x + 0.1 * x.flip(0))


def depends_on_the_batch_size(self: Around, x: Tensor) -> Tensor:
    return self.body(x) * len(x)


def squeezed(self: Around, x: Tensor) -> Tensor:
    return self.body(x).squeeze()


def fails_alone(self: Around, x: Tensor) -> Tensor:
    return self.body(x)[[0, 1, *range(2, len(x))]]


def batch_size_as_a_number(self: Around, x: Tensor) -> Tensor:
    return self.body(x).view(2, WIDTH)


def detached(self: Around, x: Tensor) -> Tensor:
    return self.body(x.detach())


@torch.no_grad()
def without_gradient(self: Around, x: Tensor) -> Tensor:
    return self.body(x)


def in_inference_mode(self: Around, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return self.body(x)


def rounded(self: Around, x: Tensor) -> Tensor:
    return self.body(torch.round(x * 255) / 255)


def as_bytes(self: Around, x: Tensor) -> Tensor:
    return self.body((x * 255).to(torch.uint8).float() / 255)


def through_numpy(self: Around, x: Tensor) -> Tensor:
    return self.body(torch.from_numpy(x.detach().numpy() * 2 - 1))


def thresholded(self: Around, x: Tensor) -> Tensor:
    return self.body((x > 0.5).float())


def nan_for_black(self: Around, x: Tensor) -> Tensor:
    return self.body(x) + (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True)).sum(1, keepdim=True)


def infinite_for_white(self: Around, x: Tensor) -> Tensor:
    return self.body(x) + 1 / (1 - x.mean((1, 2, 3)))[:, None]


def constant(self: Around, x: Tensor) -> Tensor:
    return self.body(x) * 0 + 1


def remembers(self: Around, x: Tensor) -> Tensor:
    features = self.body(x)
    self.memory = 0.5 * self.memory + 0.5 * float(features.detach().abs().mean())
    return features * self.memory


def counts_passes(self: Around, x: Tensor) -> Tensor:
    self.count += 1
    return self.body(x) + self.count


def tokens(self: Around, x: Tensor) -> Tensor:
    return self.body(x)[:, None].expand(-1, 4, -1)


def two_outputs(self: Around, x: Tensor) -> Any:
    return self.body(x), self.body(x)


def a_dictionary(self: Around, x: Tensor) -> Any:
    return {"features": self.body(x), "again": self.body(x)}


def nothing(self: Around, x: Tensor) -> None:
    self.body(x)


def doubles(self: Around, x: Tensor) -> Tensor:
    return self.body(x).double()


def halves(self: Around, x: Tensor) -> Tensor:
    return self.body(x).half()


def wider_in_training(self: Around, x: Tensor) -> Tensor:
    features = self.body(x)
    return torch.cat([features, features], 1) if self.training else features


def auxiliary_in_training(self: Around, x: Tensor) -> Any:
    return (self.body(x), self.body(x)) if self.training else self.body(x)


def fails_in_training(self: Around, x: Tensor) -> Tensor:
    if self.training:
        raise KeyError("teacher")
    return self.body(x)


def unsaved_average(self: Around, x: Tensor) -> Tensor:
    features = self.body(x)
    if self.training:
        self.mean = 0.5 * self.mean + 0.5 * features.detach().mean(0)
    return features - self.mean


def unsaved_number(self: Around, x: Tensor) -> Tensor:
    if self.training:
        self.memory += 1.0
    return self.body(x) * (1 + self.memory)


def raises(self: Around, x: Tensor) -> Tensor:
    raise NotImplementedError("this model is for text")


def of_another_size(self: Around, x: Tensor) -> Tensor:
    assert x.shape[-1] == 224, "wrong size"
    return self.body(x)


def of_one_channel(self: Around, x: Tensor) -> Tensor:
    return self.body(F.conv2d(x, torch.ones(3, 1, 1, 1)))


AROUND: dict[Callable[[Any, Tensor], Any], str] = {
    dropout: "random numbers",
    rare_dropout: "random numbers",
    noise: "random numbers",
    noise_of_numpy: "random numbers",
    noise_of_python: "random numbers",
    centered: "by itself",
    batch_statistics: "by itself",
    softmax_over_the_batch: "by itself",
    mixes_neighbors: "by itself",
    depends_on_the_batch_size: "by itself",
    squeezed: "by itself",
    fails_alone: "by itself",
    batch_size_as_a_number: "batch",
    detached: "No gradient",
    without_gradient: "No gradient",
    in_inference_mode: "No gradient",
    rounded: "No gradient",
    as_bytes: "No gradient",
    through_numpy: "No gradient",
    thresholded: "No gradient",
    nan_for_black: "a black image",
    infinite_for_white: "a white image",
    constant: "same features for every image",
    remembers: "second pass",
    counts_passes: "second pass",
    tokens: "shape (2, 4, 12)",
    two_outputs: "a tuple",
    a_dictionary: "a dict",
    nothing: "a NoneType",
    doubles: "float64",
    halves: "float16",
    wider_in_training: "24 in training mode",
    auxiliary_in_training: "not in training mode",
    fails_in_training: "not in training mode: KeyError",
    unsaved_average: "'mean' is not saved",
    unsaved_number: "saved and loaded again",
    raises: "this model is for text",
    of_another_size: "wrong size",
    of_one_channel: "channels",
}
"""What is done around a sound encoder -> words of the error that names it."""


class Listed(nn.Module):
    """Layers in a plain list, of which torch knows nothing."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.layers = body, [nn.Linear(WIDTH, WIDTH)]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](self.body(x))


class PlainWeight(nn.Module):
    """A weight that is a plain tensor."""

    def __init__(self, body: nn.Module, *, learned: bool) -> None:
        super().__init__()
        self.body, self.scale = body, torch.rand(WIDTH).requires_grad_(learned)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.scale


class ExtraState(nn.Module):
    """A module whose state is more than tensors."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.config = body, {"scale": 2}

    def get_extra_state(self) -> Any:
        return self.config

    def set_extra_state(self, state: Any) -> None:
        self.config = state

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.config["scale"]


class HidesWeights(nn.Module):
    """A state dict without some of the weights."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.register_state_dict_post_hook(self.without_biases)

    @staticmethod
    def without_biases(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
        for name in [name for name in state if name.startswith(prefix) and name.endswith("bias")]:
            del state[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def with_lock(body: nn.Module) -> nn.Module:
    body.lock = threading.Lock()  # type: ignore[assignment]
    return body


def with_nan(body: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(body.parameters()).view(-1)[0] = torch.nan
    return body


def replaced_forward(body: nn.Module) -> nn.Module:
    original = type(body).forward
    body.forward = lambda x: original(body, x)  # type: ignore[method-assign]
    return body


BODIES: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "layers in a list": (Listed, "'layers'"),
    "a weight that is no parameter": (partial(PlainWeight, learned=True), "'scale'"),
    "extra state": (ExtraState, "_extra_state"),
    "hidden weights": (HidesWeights, "bias"),
    "a lock": (with_lock, "cannot be copied"),
    "a weight that is NaN": (with_nan, "holds NaN"),
    "a forward that refers to the module": (replaced_forward, "weights of the original"),
    "all parameters frozen": (lambda body: body.requires_grad_(False), "frozen"),
    "lazy layers": (lambda body: nn.Sequential(body, nn.LazyLinear(8)), "lazy layers"),
}
"""What is done to an encoder -> words of the error that names it."""


def branches_on_values(self: Around, x: Tensor) -> Tensor:
    return self.body(x) * (2 if float(x.detach().max()) > 2 else 1)


def of_no_onnx_operator(self: Around, x: Tensor) -> Tensor:
    return self.body(x) + torch.special.bessel_j0(x.mean((1, 2, 3)))[:, None]


def counts_in_python(self: Around, x: Tensor) -> Tensor:
    features = self.body(x)
    return features * max(1, len([value for value in features.detach().flatten().tolist() if value > 1e3]))


UNEXPORTABLE = [branches_on_values, of_no_onnx_operator, counts_in_python]


def black_gradient(self: Around, x: Tensor) -> Tensor:
    return self.body(x) + torch.sqrt(x.mean((1, 2, 3)))[:, None]


def counts_in_vain(self: Around, x: Tensor) -> Tensor:
    self.count += 1
    return self.body(x)


def draws_in_vain(self: Around, x: Tensor) -> Tensor:
    torch.rand(1)
    return self.body(x)


def probabilities(self: Around, x: Tensor) -> Tensor:
    return self.body(x).softmax(1)


def partly_frozen(body: nn.Module) -> nn.Module:
    next(body.parameters()).requires_grad_(False)
    return body


DOUBTFUL: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "a gradient that is NaN for black": (partial(Around, work=black_gradient), "for a black image"),
    "a buffer that every pass changes": (partial(Around, work=counts_in_vain), "'count'"),
    "random numbers without effect": (partial(Around, work=draws_in_vain), "random numbers"),
    "probabilities": (partial(Around, work=probabilities), "probabilities"),
    "logits of 1,000 classes": (lambda body: nn.Sequential(body, nn.Linear(WIDTH, 1000)), "1000 features"),
    "a constant that is no buffer": (partial(PlainWeight, learned=False), "'scale'"),
    "a frozen layer": (partly_frozen, "frozen"),
}
"""What may be as its author wants it -> words of the warning."""


# Sound encoders, however odd.


class Tied(nn.Module):
    """Two layers of one weight, and a layer of two names."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.first, self.second = body, nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.relu(self.second(torch.relu(self.first(self.body(x))))))


def reparametrized(body: nn.Module, how: Callable[[nn.Module], nn.Module]) -> nn.Module:
    for part in list(body.modules()):
        if isinstance(part, nn.Conv2d):
            how(part)
    return body


def old_weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # many published encoders were made with it
        nn.utils.weight_norm(layer)


def in_place(self: Around, x: Tensor) -> Tensor:
    x.sub_(0.5).mul_(2)
    return self.body(x)


def viewed(self: Around, x: Tensor) -> Tensor:
    return self.body(x).view(len(x), -1)


def keeps_its_output(self: Around, x: Tensor) -> Tensor:
    self.memory = self.body(x)
    return self.memory * 1.0


def one_output(self: Around, x: Tensor) -> Any:
    return {"features": (self.body(x),)}["features"]


def checkpointed(self: Around, x: Tensor) -> Tensor:
    return checkpoint(self.body, x, use_reentrant=False) if self.training else self.body(x)


def noise_in_training(self: Around, x: Tensor) -> Tensor:
    return self.body(x + 0.1 * torch.randn_like(x) if self.training else x)


def normalized(self: Around, x: Tensor) -> Tensor:
    return F.normalize(self.body((x - self.mean[:3, None, None]) / 0.5))


ODD: dict[str, Callable[[nn.Module], nn.Module]] = {
    "tied and aliased": Tied,
    "weight norm": partial(reparametrized, how=nn.utils.parametrizations.weight_norm),
    "old weight norm": partial(reparametrized, how=old_weight_norm),
    "spectral norm": partial(reparametrized, how=nn.utils.parametrizations.spectral_norm),
    "half": lambda body: body.half(),
    "bf16": lambda body: body.bfloat16(),
    "data parallel": nn.DataParallel,
    "compiled": torch.compile,
    "channels last": lambda body: body.to(memory_format=torch.channels_last),
    "in training mode": lambda body: body.train(),
    **{
        work.__name__: partial(Around, work=work)
        for work in (
            in_place, viewed, keeps_its_output, one_output, checkpointed, noise_in_training, normalized
        )
    },
}  # fmt: skip
TIMM = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet")


@pytest.fixture(scope="module")
def images() -> DataSplits:
    """Images of three classes, 32 x 32."""
    generator = torch.Generator().manual_seed(0)
    parts = [(torch.rand(count, 3, SIZE, SIZE, generator=generator), torch.arange(count) % 3) for count in (12, 6, 6)]
    return load_data(parts, image_size=(SIZE, SIZE))


@pytest.fixture(scope="module")
def settings() -> HardenConfig:
    return HardenConfig().with_(method={"schedule": {"batch_size": 4}}, evaluation={"attacks": ("uapgd:steps=2",)})


def findings(encoder: nn.Module, data: DataSplits, config: HardenConfig, folder: Path | None = None) -> list[Finding]:
    """Return what is found beside the notes on memory and time."""
    before = {
        name: value.clone()
        for name, value in encoder.named_parameters()
        if not isinstance(value, nn.UninitializedParameter)
    }
    found = check(encoder, data, config, output_dir=folder)
    assert all(
        torch.equal(value, dict(encoder.named_parameters())[name]) or value.isnan().any()
        for name, value in before.items()
    )
    return [finding for finding in found if finding.level != "note"]


def made(family: str) -> nn.Module:
    torch.manual_seed(0)
    return FAMILIES[family]().eval()


def families_for(index: int) -> list[str]:
    """Return two families for each defect, so that every family meets a third of them."""
    names = list(FAMILIES)
    return [names[index % len(names)], names[(index + 3) % len(names)]]


def crossed(defects: Any) -> list[Any]:
    """Return every defect with its families."""
    return [
        pytest.param(defect, family, id=f"{getattr(defect, '__name__', defect)}-{family}")
        for index, defect in enumerate(defects)
        for family in families_for(index)
    ]


@pytest.mark.parametrize(("work", "family"), crossed(AROUND))
def test_what_an_encoder_does_wrong_is_named(
    work: Callable[[Any, Tensor], Any], family: str, images: DataSplits, settings: HardenConfig
) -> None:
    found = findings(Around(made(family), work).eval(), images, settings)
    assert found[0].level == "error"
    assert found[0].subject in ("encoder", "weights")
    assert AROUND[work] in found[0].text


@pytest.mark.parametrize(("defect", "family"), crossed(BODIES))
def test_what_is_wrong_with_its_weights_is_named(
    defect: str, family: str, images: DataSplits, settings: HardenConfig
) -> None:
    change, words = BODIES[defect]
    found = findings(change(made(family)), images, settings)
    assert found[0].level == "error"
    assert found[0].subject in ("encoder", "weights")
    assert words in found[0].text


@pytest.mark.parametrize("work", UNEXPORTABLE)
def test_what_cannot_be_exported_is_named(
    work: Callable[[Any, Tensor], Any], images: DataSplits, settings: HardenConfig, tmp_path: Path
) -> None:
    found = findings(Around(made("batch norm"), work).eval(), images, settings, tmp_path)
    assert [(finding.level, finding.subject) for finding in found] == [("error", "export")]
    assert "ONNX" in found[0].text
    assert len(found[0].text) < 500, "no graph, no colors"
    assert "\x1b" not in found[0].text


@pytest.mark.parametrize(("doubt", "family"), crossed(DOUBTFUL))
def test_what_may_surprise_is_a_warning(doubt: str, family: str, images: DataSplits, settings: HardenConfig) -> None:
    change, words = DOUBTFUL[doubt]
    found = findings(change(made(family)).eval(), images, settings)
    assert [(finding.level, finding.subject) for finding in found] == [("warning", "encoder")]
    assert words in found[0].text
    assert found[0].remedy


@pytest.mark.parametrize(("oddity", "family"), crossed(ODD))
def test_no_sound_encoder_is_refused(oddity: str, family: str, images: DataSplits, settings: HardenConfig) -> None:
    assert findings(ODD[oddity](made(family)), images, settings) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_with_its_export(
    family: str, images: DataSplits, settings: HardenConfig, tmp_path: Path
) -> None:
    assert findings(made(family), images, settings, tmp_path) == []


@pytest.mark.parametrize("name", TIMM)
def test_models_of_timm_pass(name: str, settings: HardenConfig) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0)
    size = model.default_cfg["input_size"][1:]
    parts = [(torch.rand(count, 3, *size), torch.arange(count) % 3) for count in (6, 3, 3)]
    assert findings(model, load_data(parts, image_size=size), settings) == []


def test_nothing_of_a_trial_is_left(images: DataSplits, settings: HardenConfig, tmp_path: Path) -> None:
    encoder = made("batch norm")
    before = copy.deepcopy(encoder.state_dict())
    check(encoder, images, settings, output_dir=tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert list(tmp_path.iterdir()) == []
