"""Activations that are computed again: the same gradients, logits and batch statistics, and less is kept."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from training import cpu_run, fine_tune, tiny_model

from genaf_sdk import HardenConfig, estimates, harden, preflight
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.activations import Recomputed, bytes_kept, recomputed, recomputed_activations
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.machine import MachineConfig
from genaf_sdk.engine.modules import synchronized_layers
from genaf_sdk.engine.processes import ALONE, Processes
from genaf_sdk.errors import ConfigError
from genaf_sdk.methods import FineTuning, GenAF, Method
from genaf_sdk.preparation import Candidate


class Block(nn.Module):
    """What is hard to compute again: batch norm, one dropout in two places, stochastic depth by torch's generator."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm, self.dropout = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.Dropout(0.2),
        )

    def forward(self, x: Tensor) -> Tensor:
        branch = self.dropout(torch.relu(self.norm(self.conv(self.dropout(x)))))
        if self.training:
            branch = branch * (torch.rand(len(x), 1, 1, 1) > 0.3)
        return x + branch


class Blocks(nn.Module):
    """Pixels (N, 3, H, W) to features (N, 16) through three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 16, 3, stride=2), nn.Sequential(*(Block(16) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x)).mean((2, 3))


def vit() -> nn.Module:
    """A ViT of three blocks."""
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0
    )


def passed(model: nn.Module, kind: Recomputed, *, training: bool, autocast: bool) -> dict[str, Tensor]:
    """Return logits, gradients of weights and images, and buffers after one pass; empty the gradients."""
    torch.manual_seed(1)
    pixels = torch.rand(6, 3, 16, 16).requires_grad_()
    model.train(training)
    with (
        recomputed_activations(model, kind),
        synchronized_layers(model, Processes.of(Accelerator(cpu=True)), sync_batch_norm=True),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        logits = model(pixels)
        logits.float().square().sum().backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    return {**found, "images": pixels.grad, "logits": logits.detach(), **dict(model.named_buffers())}  # type: ignore[dict-item]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["light", "full"])
@pytest.mark.parametrize("encoder", [Blocks, vit], ids=["conv", "vit"])
def test_gradients_and_batch_statistics_are_those_of_the_plain_pass(
    encoder: Any, kind: Recomputed, training: bool, autocast: bool
) -> None:
    torch.manual_seed(0)
    plain = passed(encoder(), "none", training=training, autocast=autocast)
    torch.manual_seed(0)
    model = encoder()
    again = passed(model, kind, training=training, autocast=autocast)
    assert plain.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in plain.items())
    assert not any("forward" in vars(part) for part in model.modules()), "the modules are as they were"


def test_less_is_kept() -> None:
    torch.manual_seed(0)
    none, light, full = (bytes_kept(Blocks(), torch.rand(8, 3, 33, 33), kind) for kind in ("none", "light", "full"))
    a_map = 8 * 16 * 16 * 16 * 4
    assert none > 3 * 4 * a_map, "in each block: what convolution, norm and ReLU take, and the dropout's mask"
    assert full < light < 0.9 * none, "one of three blocks is there again"
    assert full < 0.7 * none


@pytest.mark.parametrize("method", [FineTuning(), GenAF()])
def test_whole_stages_end_in_the_same_weights(method: Method, striped: DataSplits) -> None:
    short = method.with_(schedule={"epochs": 1, "batch_size": 32})
    short = short.with_(adaptability={"epochs": 0}) if isinstance(short, GenAF) else short
    states = []
    for kind in ("none", "auto", "light", "full"):
        torch.manual_seed(0)
        model = tiny_model(Blocks())
        machine = MachineConfig(checkpoint_activations=kind, mixed_precision="no")  # type: ignore[arg-type]
        fine_tune(short, cpu_run(machine=machine), model, striped)
        states.append(model.state_dict())
    assert all(torch.equal(state[name], value) for state in states[1:] for name, value in states[0].items())


@pytest.mark.parametrize(("free", "kind"), [(10**12, "auto"), (None, "light"), (1, "full")])
def test_a_run_computes_again_what_memory_asks_for(
    free: int | None, kind: str, striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick_config.with_(method={"schedule": {"epochs": 1}, "adaptability": {"epochs": 0}})
    found: list[MachineConfig] = []

    def watched(candidate: Candidate) -> MachineConfig:
        light = estimates.memory_of_a_step(candidate, MachineConfig(checkpoint_activations="light"))
        for module in (estimates, preflight):
            monkeypatch.setattr(module, "free_memory", lambda _: free or light)
        found.append(estimates.settled_machine(candidate))
        assert ("computed again" in next(preflight._memory(candidate)).text) == (kind != "auto")
        return found[-1]

    monkeypatch.setattr("genaf_sdk.pipeline.settled_machine", watched)
    harden(Blocks(), striped, config, evaluate=False, progress=False, preflight=False)
    assert [machine.checkpoint_activations for machine in found] == [kind]


def test_weights_that_are_shared_out_are_left_to_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "is_fsdp2", True)
    run = cpu_run(machine=MachineConfig(checkpoint_activations="full"))
    with pytest.raises(ConfigError, match="fsdp_activation_checkpointing"):
        recomputed(run)


def test_a_dropout_of_several_places_drops_anew_in_each() -> None:
    layer, rows = nn.Dropout(0.5).train(), torch.ones(64, 256)
    model = nn.Sequential(layer, layer)
    with synchronized_layers(model, ALONE, sync_batch_norm=True) as current:
        crossings = []
        for _ in range(2):
            current.batch = Batch.whole(rows, torch.zeros(64, dtype=torch.int64))
            crossings.append(model(rows))
        once = layer(rows)
    assert torch.equal(*crossings)
    assert float((crossings[0] > 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float((once > 0).float().mean()) == pytest.approx(0.5, abs=0.02)
