"""Updates of low rank (LoRA): they alone are trained, and the weights that hold them give the same logits."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer
from training import cpu_run, tiny_model

from genaf_sdk import HardenConfig, harden
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.lowrank import low_rank
from genaf_sdk.engine.train import train
from genaf_sdk.errors import ConfigError
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods import GenAF, LinearProbe, Method
from genaf_sdk.methods.lab import Lab
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head
from genaf_sdk.pipeline import check

needs_peft = pytest.mark.skipif("not __import__('importlib').util.find_spec('peft')", reason="needs the extra lora")
NAMES = [f"blocks.{number}.mlp.fc1.weight" for number in (0, 1)]
SHORT = GenAF().with_(schedule={"epochs": 2, "batch_size": 32, "encoder_learning_rate": 1e-2})


def small_vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0
    )


class Grouped(nn.Module):
    """A depthwise convolution between two ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 16, 3, groups=16)
        self.norm, self.last = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.depthwise(torch.relu(self.first(x)))).relu()).mean((2, 3))


def trained(
    encoder: nn.Module, data: DataSplits, method: Method = SHORT, rank: int | None = 2
) -> tuple[HardenedModel, Tensor, dict[str, Tensor]]:
    """Return the model after stage 1, its logits before the updates were added, and its weights before training."""
    torch.manual_seed(0)
    model, run = tiny_model(encoder), cpu_run()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lab = Lab(run, model, data)
    pixels, _ = data.test.sample()
    with low_rank(model, lab.stage("stage 1", method), rank, lab.key("lora")) as stage:
        train(run, model, data, stage)
        with torch.no_grad():
            logits = model.eval()(pixels)
    return model, logits, before


@needs_peft
@pytest.mark.parametrize("encoder", [small_vit, Grouped])
def test_the_merged_model_gives_the_same_logits_and_has_its_own_layers(encoder: type, striped: DataSplits) -> None:
    model, logits, before = trained(encoder(), striped)
    with torch.no_grad():
        torch.testing.assert_close(model(striped.test.sample()[0]), logits, rtol=1e-5, atol=1e-5)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(parameter.requires_grad for parameter in model.parameters())
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    layers = {name for name, part in model.encoder.named_modules() if type(part) in (nn.Linear, nn.Conv2d)}
    expected = {f"encoder.{name}.weight" for name in layers if "depthwise" not in name}
    assert {name for name in changed if name.startswith("encoder.")} == expected
    statistics = [name for name in before if name.endswith("running_mean")]
    assert all(not torch.equal(after[name], before[name]) for name in statistics), "they follow what they normalize"
    for name in expected:
        update = (after[name] - before[name]).flatten(1)
        if min(update.shape) > 2:
            values = torch.linalg.svdvals(update)
            assert float(values[2] / values[0]) < 1e-4, name


@needs_peft
def test_layers_whose_weights_others_read_learn_nothing(striped: DataSplits) -> None:
    vit = VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
    vit.heads = nn.Identity()  # type: ignore[assignment]
    model, logits, before = trained(vit, striped)
    with torch.no_grad():
        torch.testing.assert_close(model(striped.test.sample()[0]), logits, rtol=1e-5, atol=1e-5)
    after = model.state_dict()
    for name, value in before.items():
        if "attention" in name:
            assert torch.equal(after[name], value), name
    assert any(not torch.equal(after[name], before[name]) for name in before if "mlp" in name)


class Shared(nn.Module):
    """Layers whose weight has a second name, a second layer, or is computed anew before every pass; and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.plain = nn.Conv2d(3, 16, 3, stride=2), nn.Linear(16, 16)
        self.twice, self.one, self.other = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.again, self.other.weight = self.twice, self.one.weight
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.normed = nn.utils.weight_norm(nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.first(x).relu().mean((2, 3)))
        for layer in (self.twice, self.again, self.one, self.other, self.normed):
            x = x + layer(x.relu())
        return x


@needs_peft
def test_layers_that_share_or_compute_their_weight_learn_nothing(striped: DataSplits) -> None:
    model, logits, before = trained(Shared(), striped)
    with torch.no_grad():
        torch.testing.assert_close(model(striped.test.sample()[0]), logits, rtol=1e-5, atol=1e-5)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    changed = {name.removeprefix("encoder.backbone.") for name in changed if name.startswith("encoder.")}
    assert changed == {"first.weight", "plain.weight"}


@needs_peft
def test_what_trains_no_encoder_gets_no_updates(striped: DataSplits) -> None:
    method = LinearProbe().with_(schedule={"epochs": 1})
    model, run = tiny_model(small_vit()), cpu_run()
    lab = Lab(run, model, striped)
    stage = next(iter(method.stages(lab)))
    with low_rank(model, stage, 2, 0) as adapted:
        assert adapted is stage
    with low_rank(model, lab.stage("stage 1", SHORT), None, 0) as adapted:
        assert not any("lora" in name for name, _ in model.named_parameters())


@needs_peft
def test_a_whole_run_ends_in_an_ordinary_model(striped: DataSplits, quick_config: HardenConfig, tmp_path: Path) -> None:
    config = quick_config.with_(tuning={"lora_rank": 2, "train_last": 1}, method={"schedule": {"epochs": 1}})
    torch.manual_seed(0)
    encoder = small_vit()
    result = harden(encoder, striped, config, evaluate=False, progress=False, preflight=False)
    loaded = HardenedModel.from_pretrained(result.model.save_pretrained(tmp_path), backbone=small_vit())
    with torch.no_grad():
        torch.testing.assert_close(loaded(striped.test.sample()[0]), result.model(striped.test.sample()[0]))
    backbone = result.model.encoder.backbone
    unchanged = [torch.equal(backbone.get_parameter(name), encoder.get_parameter(name)) for name in NAMES]
    assert unchanged == [True, False]


def test_a_missing_library_is_named_before_training(
    striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    torch.manual_seed(0)
    encoder = PixelEncoder(small_vit(), image_size=(16, 16))
    findings = check(encoder, striped, quick_config.with_(tuning={"lora_rank": 4}))
    assert "genaf-sdk[lora]" in findings[0].remedy
    model = HardenedModel(encoder, build_head("mlp", 16, 3), class_names=("a", "b", "c"), image_size=(16, 16))
    lab = Lab(cpu_run(), model, striped)
    with pytest.raises(ConfigError, match="peft"), low_rank(model, lab.stage("stage 1", SHORT), 4, 0):
        pass
