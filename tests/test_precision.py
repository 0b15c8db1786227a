from __future__ import annotations

import pytest
import torch
from torch import nn

from genaf_sdk.attacks import load_attack
from genaf_sdk.models.forwards import forward_in
from genaf_sdk.precision import has_bf16, resolve


def test_auto_is_bf16_only_where_the_device_has_it() -> None:
    cpu = torch.device("cpu")
    assert resolve("auto", cpu) == ("bf16" if has_bf16(cpu) else "fp32")
    assert resolve("fp32", cpu) == "fp32"
    assert resolve("bf16", cpu) == "bf16"
    assert not has_bf16(torch.device("meta"))


def test_a_processor_without_matrix_units_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve("auto", torch.device("cpu")) == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert resolve("auto", torch.device("cpu")) == "bf16"


def test_a_forward_pass_in_bf16_returns_float32_and_leaves_the_module_as_it_was() -> None:
    torch.manual_seed(0)
    module, inputs = nn.Linear(64, 8), torch.randn(4, 64, requires_grad=True)
    plain = module(inputs)
    with forward_in("bf16", module):
        lowered = module(inputs)
    assert lowered.dtype == torch.float32
    assert not torch.equal(lowered, plain)
    torch.testing.assert_close(lowered, plain, rtol=0.02, atol=0.02)
    (slope,) = torch.autograd.grad(lowered.sum(), inputs)
    assert slope.dtype == torch.float32
    assert torch.equal(module(inputs), plain)
    assert "forward" not in vars(module)


def test_perturbations_say_the_precision_they_were_crafted_in(tiny_encoder: nn.Module) -> None:
    images = torch.rand(8, 3, 8, 8)
    perturbations = {
        name: load_attack(f"uapgd:steps=5,precision={name}")(tiny_encoder, images) for name in ("fp32", "bf16")
    }
    assert {name: p.details["precision"] for name, p in perturbations.items()} == {"fp32": "fp32", "bf16": "bf16"}
    torch.testing.assert_close(perturbations["fp32"].values.abs().max(), perturbations["bf16"].values.abs().max())
