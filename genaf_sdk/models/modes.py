"""Training and eval mode of a module and of each of its parts."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextlib.contextmanager
def inference_mode_of(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in eval mode for the block, then every submodule back in the mode it was in."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training
