"""Forward passes that are exchanged for a while: afterwards a module computes what it computed before."""

from __future__ import annotations

import types
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from genaf_sdk.attacks import LabelUAP
from genaf_sdk.engine.activations import recomputed_activations
from genaf_sdk.engine.modules import synchronized_layers
from genaf_sdk.engine.processes import Processes
from genaf_sdk.models.forwards import exchanged_forwards, forward_in, is_lowered


class Doubled(nn.Linear):
    """A layer whose instance has a ``forward`` of its own, as patched models have."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.forward = types.MethodType(lambda layer, x: 2 * nn.Linear.forward(layer, x), self)  # type: ignore[method-assign]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.forward = types.MethodType(lambda block, x: block.second(block.first(x)) - 1, self)  # type: ignore[method-assign]


def dropout_of_its_own() -> nn.Module:
    dropout = nn.Dropout(0.5)
    dropout.forward = types.MethodType(lambda _, x: x + 1, dropout)  # type: ignore[method-assign]
    return nn.Sequential(nn.Linear(4, 4), dropout)


def synchronized(model: nn.Module) -> AbstractContextManager[Any]:
    return synchronized_layers(model, Processes.of(Accelerator(cpu=True)), sync_batch_norm=True)


@pytest.mark.parametrize(
    ("model", "context"),
    [
        (Doubled(), lambda model: forward_in("bf16", model)),
        (nn.Sequential(Block(), Block()), lambda model: recomputed_activations(model, "full")),
        (dropout_of_its_own(), synchronized),
        (Doubled(), lambda model: exchanged_forwards([(model, lambda x: x)])),
    ],
    ids=["bf16", "recomputed", "dropout", "any"],
)
def test_a_forward_of_the_instance_comes_back(model: nn.Module, context: Any) -> None:
    inputs = torch.rand(3, 4)
    before = model(inputs)
    with context(model):
        model(inputs)
    assert torch.equal(model(inputs), before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile looks at it
def test_a_compiled_model_survives_an_attack_in_bf16() -> None:
    torch.manual_seed(0)
    pixels, labels = torch.rand(6, 3, 4, 4), torch.arange(6) % 3
    compiled: Any = torch.compile(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval(), backend="eager")
    before = compiled(pixels)
    LabelUAP(steps=2, goals=0, precision="bf16")(compiled, pixels, labels)
    assert torch.equal(compiled(pixels), before)


def test_a_module_says_whether_it_is_lowered() -> None:
    model: nn.Module = Doubled()
    found: list[bool] = [is_lowered(model)]
    for precision in ("fp32", "bf16"):
        with forward_in(precision, model):
            output: Tensor = model(torch.rand(1, 4))
            found.append(is_lowered(model))
            assert output.dtype == torch.float32
    assert [*found, is_lowered(model)] == [False, False, True, False]
