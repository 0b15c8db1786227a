"""How a classifier lies on disk: what is saved comes back, older folders load, damage is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genaf_sdk.errors import EncoderError, OutputError
from genaf_sdk.models.classifier import Classifier
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head
from genaf_sdk.models.storage import CONFIG_FILE, WEIGHTS_FILE, load_classifier, save_classifier


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(torch.relu(self.stem(images)).mean((2, 3)))))


class Tied(Backbone):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.second.weight = self.first.weight


class Aliased(Backbone):
    """One layer by two names, as wrappers for saliency maps keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.target_layer = self.stem


class Sliced(Backbone):
    """Two buffers that are parts of one memory."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.rand(4, 4)
        self.register_buffer("upper", whole[:2])
        self.register_buffer("columns", whole[:, 1:])


def classifier(backbone: nn.Module, head: str = "mlp", **options: object) -> Classifier:
    encoder = PixelEncoder(backbone, mean=(0.5,), std=(0.25,), **options)
    return Classifier(encoder, build_head(head, 8, 3), class_names="abc", image_size=(16, 16)).eval()


def no_build(encoder_id: str) -> nn.Module:
    raise AssertionError(f"{encoder_id!r} is asked for")


@pytest.mark.parametrize("head", ["mlp", "linear", "cosine"])
@pytest.mark.parametrize("kind", [Backbone, Tied, Aliased, Sliced])
def test_what_is_saved_comes_back(kind: type[nn.Module], head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = classifier(kind(), head)
    save_classifier(model, tmp_path)
    loaded = load_classifier(tmp_path, Classifier, no_build, backbone=kind())
    pixels = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(pixels), model(pixels))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert not loaded.training


def test_the_module_that_gives_the_architecture_is_left_as_it_is(tmp_path: Path) -> None:
    model, module = classifier(Backbone()), Backbone().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    save_classifier(model, tmp_path)
    loaded = load_classifier(tmp_path, Classifier, no_build, backbone=module)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(loaded.get_parameter("encoder.backbone.first.weight"), model.encoder.backbone.first.weight)


def test_ties_are_saved_once_and_still_hold(tmp_path: Path) -> None:
    save_classifier(classifier(Tied()), tmp_path)
    assert "encoder.backbone.second.weight" not in load_file(tmp_path / WEIGHTS_FILE)
    loaded = load_classifier(tmp_path, Classifier, no_build, backbone=Tied()).encoder.backbone
    assert loaded.first.weight is loaded.second.weight


def test_a_tie_that_the_weights_do_not_have_is_refused(tmp_path: Path) -> None:
    save_classifier(classifier(Backbone()), tmp_path)
    with pytest.raises(OutputError, match=r"first\.weight, .*second\.weight differ"):
        load_classifier(tmp_path, Classifier, no_build, backbone=Tied())


def test_compiled_parts_are_saved_under_their_plain_names(tmp_path: Path) -> None:
    backbone = Backbone()
    plain = classifier(backbone)
    save_classifier(plain, tmp_path / "plain")
    backbone.first = torch.compile(backbone.first, backend="eager")
    save_classifier(plain, tmp_path / "compiled")
    assert load_file(tmp_path / "compiled" / WEIGHTS_FILE).keys() == load_file(tmp_path / "plain" / WEIGHTS_FILE).keys()
    load_classifier(tmp_path / "plain", Classifier, no_build, backbone=backbone)


def test_a_folder_that_names_no_head_has_the_papers(tmp_path: Path) -> None:
    model = classifier(Backbone())
    save_classifier(model, tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    del config["head"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    pixels = torch.rand(4, 3, 16, 16)
    loaded = load_classifier(tmp_path, Classifier, no_build, backbone=Backbone())
    with torch.no_grad():
        assert torch.equal(loaded(pixels), model(pixels))


def test_who_loads_says_how_ids_are_built(tmp_path: Path) -> None:
    asked = []

    def build(encoder_id: str) -> nn.Module:
        asked.append(encoder_id)
        return Backbone()

    save_classifier(classifier(Backbone(), source="ours:backbone"), tmp_path)
    assert load_classifier(tmp_path, Classifier, build).encoder.source == "ours:backbone"
    assert set(asked) == {"ours:backbone"}


def test_a_head_of_no_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = Classifier(PixelEncoder(Backbone()), nn.Linear(8, 3), class_names="abc", image_size=(16, 16))
    with pytest.raises(EncoderError, match="no name describes"):
        save_classifier(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": {"name": "cosine", "feature_dim": 8}}, r"'head\.\w+' is missing|no weight"),
        ({"head": {"name": "none", "feature_dim": 8}}, "one of"),
        ({"head": {"name": "mlp", "feature_dim": 9}}, "9 features has no weight of that size"),
        ({"class_names": ["a", "b"]}, r"head\.5\.weight.*shape"),
        ({"class_names": []}, "0 class names.*1 to 100000"),
        ({"class_names": [0] * 100_001}, "100001 class names.*1 to 100000"),
        ({"format": 2}, "format 1"),
        ({"interpolation": "nearest-exact"}, r"config\.json: interpolation is 'nearest-exact'.*one of 'nearest', 'bil"),
        ({"image_size": [16.5, 16]}, r"config\.json: image_size is \[16\.5, 16\].*from 1 to 8192.*download the model"),
        ({"std": [1e-320]}, "standard deviation"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_named(change: dict, message: str, tmp_path: Path) -> None:
    save_classifier(classifier(Backbone()), tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | change))
    with pytest.raises((OutputError, EncoderError), match=message):
        load_classifier(tmp_path, Classifier, no_build, backbone=Backbone())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.half(), r"'head\.5\.weight' is torch\.float16.*torch\.float32"),
        (lambda value: value.to(torch.complex64), "complex64"),
        (lambda value: value > 0, "bool"),
        (lambda value: value * float("nan"), r"'head\.5\.weight' in .*model\.safetensors holds NaN"),
        (lambda value: value / 0, "infinity"),
    ],
)
def test_weights_are_the_finite_numbers_that_were_saved(
    change: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    save_classifier(classifier(Backbone()), tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    save_file(weights | {"head.5.weight": change(weights["head.5.weight"])}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(OutputError, match=message):
        load_classifier(tmp_path, Classifier, no_build, backbone=Backbone())


ONE = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{" + b" " * 9 * 2**20 + ONE + b"}", "header has 9437238 bytes, of at most 8388608"),
        (b"{" + ONE + b"," + ONE + b"}", "two values of one name"),
    ],
)
def test_a_header_is_looked_at_before_its_names_are_taken(header: bytes, message: str, tmp_path: Path) -> None:
    """The library reads both, one of them in minutes where it has a million names."""
    save_classifier(classifier(Backbone()), tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert load_file(tmp_path / WEIGHTS_FILE).keys() == {"a"}
    with pytest.raises(OutputError, match=message):
        load_classifier(tmp_path, Classifier, no_build, backbone=Backbone())
