"""What a training step computes stays on the device: nothing of it is read by the host before the optimizers step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from genaf_sdk.data import DataSplits
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.stage import Outputs
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods import PGD, GenAF
from genaf_sdk.methods.steps import ascend
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head


class HostReads(TorchDispatchMode):
    """Notes every operation whose result the host has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        chosen = args[1] if name in ("index", "index_put_", "index_put") else ()
        by_mask = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in chosen)
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_attack_loss_and_gradient_read_nothing_on_the_host(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    encoder = PixelEncoder(tiny_encoder)
    model = HardenedModel(encoder, build_head("mlp", 16, 3), class_names=striped.class_names, image_size=(16, 16))
    pixels, labels = striped.train.sample(24, seed=0)

    ascend(model, pixels, labels, torch.zeros_like(pixels), PGD())  # once a model, what can be folded is looked at

    with HostReads() as reads:
        adversarial, _ = ascend(model, pixels, labels, torch.zeros_like(pixels), PGD(steps=3))
        features, logits = FeaturesAndLogits(model.train())(torch.cat([adversarial, pixels]))
        batch = Batch.whole(pixels, labels)
        losses = GenAF().losses(Outputs(features.chunk(2), logits.chunk(2)), batch)
        batch.mean(losses.rows).backward()

    assert reads.names == []
    assert tiny_encoder.get_parameter("conv1.weight").grad is not None


@pytest.mark.parametrize("read", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.any())])
def test_reads_are_noticed(read: Any) -> None:
    with HostReads() as reads:
        read(torch.ones(3))
    assert reads.names != []
