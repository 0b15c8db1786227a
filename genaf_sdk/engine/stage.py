"""A stage of training, as the engine knows it: views of a batch, losses on what the model makes of them, a schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from genaf_sdk.engine.adversary import Adversary
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.schedule import Schedule

Views = tuple[Tensor, ...]
"""The inputs of a batch as a method wants them, one tensor (n, ...) a view; the last view is the one that is scored."""


@dataclass(frozen=True)
class Outputs:
    """What the model makes of every view.

    Args:
        features: One tensor (n, D) a view.
        logits: One tensor (n, K) a view.
    """

    features: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]


@dataclass(frozen=True)
class Losses:
    """What is descended: one value for each row, whose mean over the global batch the engine takes.

    Args:
        rows: (n,), one value for each row of this process.
        terms: (n,) each, by name, before weighting: for the log.
    """

    rows: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


def _everything(name: str) -> bool:  # noqa: ARG001  # every parameter, whatever its name
    return True


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training of the model.

    Args:
        name: In the history, the progress bar, checkpoints and errors; random numbers depend on it.
        schedule: Epochs, batches, learning rates, augmentation.
        views: Returns the views of an augmented batch, for the classifier and the batch.
        losses: Returns the losses of a batch, from what the model makes of its views.
        compares_rows: Whether a row's loss depends on other rows, so that losses need the whole batch at once.
        memory: Learns from every step, and is kept in checkpoints.
        trains: Whether the parameter of that name is trained; the others are left as they are.
        train_mode: Puts the modules into the mode that they train in.
    """

    name: str
    schedule: Schedule
    views: Callable[[nn.Module, Batch], Views]
    losses: Callable[[Outputs, Batch], Losses]
    compares_rows: bool = False
    memory: Adversary | None = None
    trains: Callable[[str], bool] = _everything
    train_mode: Callable[[nn.Module], object] = nn.Module.train
