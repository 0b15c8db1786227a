"""Weights shared out among processes while a stage trains (FSDP2 of accelerate), and made whole again afterwards."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator
    from torch.distributed.tensor import DTensor

Model = TypeVar("Model", bound=nn.Module)


class ShardedClassifier(nn.Module):
    """The classifier as attacks call it while its weights are sharded (FSDP2): by way of what gathers them.

    Args:
        both: Maps inputs (N, ...) to features (N, D) and logits (N, K); what the accelerator shards.
    """

    def __init__(self, both: nn.Module) -> None:
        super().__init__()
        self.both = both

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (N, ...) to logits (N, K)."""
        logits: Tensor = self.both(inputs)[1]
        return logits


def in_precision(prepared: nn.Module, accelerator: Accelerator) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return ``prepared`` as training calls it, in the accelerator's precision.

    accelerate makes a module that is not shared out run under autocast. One that is would get weights and *images* in
    the lower precision instead, and bfloat16 rounds bright pixels by up to half a gray level, too much for
    perturbations of a few. So weights travel in float32, and autocast does here what it does for the others.
    """

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        with accelerator.autocast():
            features, logits = prepared(pixels)
        return features, logits

    return forward


def make_ready(model: nn.Module, accelerator: Accelerator) -> None:
    """Have FSDP2 leave weights and images in float32 (see ``in_precision``); it asks for rows one after the other."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    for weight in model.parameters():
        weight.data = weight.data.contiguous()
    accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(cast_forward_inputs=False)


def is_shared_out(value: Tensor) -> TypeGuard[DTensor]:
    """Whether this process has a part of a tensor alone; what makes such tensors takes seconds to load."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(value, loaded.DTensor)


def local(value: Tensor) -> Tensor:
    """Return this process's part of a tensor that is shared out; any other tensor as it is."""
    return value.to_local() if is_shared_out(value) else value


def full_tensor(value: Tensor) -> Tensor:
    """Return a tensor that is shared out as a whole, on the CPU; any other tensor as it is. All processes call this."""
    return value.full_tensor().cpu() if is_shared_out(value) else value


def sharded_like(value: Tensor, weight: Tensor) -> Tensor:
    """Return ``value`` shared out as ``weight`` is; as it is where that one is whole."""
    if not is_shared_out(weight):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)


@torch.no_grad()
def unsharded(trained: nn.Module, copy: Model, device: torch.device) -> Model:
    """Return ``copy``, made before ``trained`` was shared out, with the weights that are in ``trained`` now."""
    copy.load_state_dict({name: full_tensor(value) for name, value in trained.state_dict().items()})
    return copy.to(device)
