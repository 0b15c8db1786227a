"""What a training stage carries from step to step, as named tensors and JSON, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genaf_sdk.engine.sharding import full_tensor, sharded_like
from genaf_sdk.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelerate import Accelerator

    from genaf_sdk.engine.adversary import Adversary
    from genaf_sdk.engine.checkpoints import Checkpoint

MODEL, OPTIMIZER, ADVERSARY = "model.", "optimizer.", "adversary."


def gather_state(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    adversary: Adversary | None,
    accelerator: Accelerator,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights, optimizer moments and what the adversary keeps by name, and the loss scale of fp16 as metadata.

    Learning rates are no state: they follow from the number of the step. What processes share is gathered.
    """
    tensors = {f"{MODEL}{name}": full_tensor(value) for name, value in model.state_dict().items()}
    for place, optimizer in enumerate(optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{OPTIMIZER}{place}.{index}.{name}": full_tensor(value) for name, value in moments.items()}
    if adversary is not None:
        tensors |= {f"{ADVERSARY}{name}": value for name, value in adversary.state().items()}
    scaler = accelerator.scaler
    return tensors, {"loss_scale": None if scaler is None else scaler.state_dict()}


def restore_state(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    adversary: Adversary | None,
    accelerator: Accelerator,
) -> None:
    """Put back what ``gather_state`` returned, in place.

    Raises:
        OutputError: The checkpoint belongs to another model.
    """
    tensors = checkpoint.tensors
    try:
        weights, present = _below(tensors, MODEL), model.state_dict()
        model.load_state_dict({n: sharded_like(value, present.get(n, value)) for n, value in weights.items()})
        for place, optimizer in enumerate(optimizers):
            _restore_optimizer(optimizer, _below(tensors, f"{OPTIMIZER}{place}."))
        if adversary is not None:
            adversary.load(_below(tensors, ADVERSARY), accelerator.device)
    except (RuntimeError, KeyError, IndexError, ValueError) as error:
        raise OutputError(
            f"The checkpoint after step {checkpoint.step} does not fit the model: {str(error).splitlines()[0]}",
            remedy="start anew without resume",
        ) from error
    if accelerator.scaler is not None and checkpoint.metadata["loss_scale"]:
        accelerator.scaler.load_state_dict(checkpoint.metadata["loss_scale"])


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, moment = name.split(".", 1)
        weight = weights[int(index)]
        if value.shape == weight.shape and value.ndim:
            like = torch.empty_like(weight, dtype=value.dtype)  # in the weight's memory format
            value = like.copy_(sharded_like(value, weight))
        state.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
