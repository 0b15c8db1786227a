"""The forward pass of modules, exchanged for a while."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import nn


@contextmanager
def exchanged_forwards(exchange: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Context: each module computes by the function beside it; afterwards by what it had before.

    That may be a ``forward`` of the instance itself, as ``torch.compile`` and patched modules have, which is put back.

    Args:
        exchange: Modules, each at most once, and what takes the place of their ``forward``.
    """
    pairs = list(exchange)
    before = [(module, vars(module).get("forward")) for module, _ in pairs]
    try:
        for module, forward in pairs:
            vars(module)["forward"] = forward
        yield
    finally:
        for module, own in before:
            if own is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = own


@contextmanager
def forward_in(precision: Literal["fp32", "bf16"], *modules: nn.Module) -> Iterator[None]:
    """Context: each module's forward pass runs under autocast and returns float32; weights and losses stay float32.

    Names of submodules stay as they are, so that hooks find their layers.
    """
    lowered = () if precision == "fp32" else modules
    with exchanged_forwards([(module, partial(_under_autocast, module, module.forward)) for module in lowered]):
        yield


def is_lowered(module: nn.Module) -> bool:
    """Return whether ``forward_in`` has a module compute in bf16 just now."""
    return getattr(vars(module).get("forward"), "func", None) is _under_autocast


def _under_autocast(module: nn.Module, forward: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    device_type = inputs[0].device.type if inputs else next(module.parameters()).device.type
    with torch.autocast(device_type, torch.bfloat16):
        output = forward(*inputs)
    return output.float()
