"""What the backward pass needs of the forward pass: kept, or computed again where memory is worth more than time.

The blocks of an encoder run under torch's activation checkpointing (Chen et al., arXiv 1604.06174). Gradients are those
of the plain pass: batch statistics are computed again and not counted again, dropout draws the same masks.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from genaf_sdk.engine.modules import RowDropout
from genaf_sdk.errors import ConfigError
from genaf_sdk.models.blocks import smallest_blocks_of
from genaf_sdk.models.forwards import exchanged_forwards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from genaf_sdk.engine.run import Run

Recomputed = Literal["none", "light", "full"]
"""``light``: norms and activation functions; convolutions, matrix products and attention are kept. ``full``: all but
each block's input, for one forward pass more."""

_aten = torch.ops.aten
COSTLY = {
    packet.default
    for packet in (
        *(_aten.convolution, _aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm),
        *(_aten._scaled_dot_product_flash_attention, _aten._scaled_dot_product_flash_attention_for_cpu),
        *(_aten._scaled_dot_product_efficient_attention, _aten._scaled_dot_product_cudnn_attention),
    )
}
"""Operations whose results ``light`` keeps."""


def recomputed(run: Run) -> Recomputed:
    """Return what is computed again; nothing where the settings leave it open, and nobody has looked at the memory.

    Raises:
        ConfigError: The settings ask for it where the weights are shared out (FSDP2).
    """
    asked = run.machine.checkpoint_activations
    if run.accelerator.is_fsdp2:
        if asked in ("light", "full"):
            raise ConfigError(
                f"machine.checkpoint_activations is {asked!r}, and FSDP2 shares the weights out.",
                expected="'auto' or 'none'",
                remedy="set fsdp_activation_checkpointing in accelerate's configuration",
            )
        return "none"
    return "none" if asked == "auto" else asked


@contextmanager
def recomputed_activations(model: nn.Module, kind: Recomputed) -> Iterator[None]:
    """Context in which the smallest repeated blocks of ``model`` keep less for their backward pass.

    ``light`` concerns the training pass alone, as attacks, in eval mode, have fewer images; ``full`` both.
    """
    blocks = list(smallest_blocks_of(model).values()) if kind != "none" else []
    with exchanged_forwards([(block, partial(_checkpointed, block, block.forward, kind)) for block in blocks]):
        yield


def bytes_kept(model: nn.Module, inputs: Tensor, kind: Recomputed) -> int:
    """Return about how many bytes a pass keeps for its backward pass, and the largest block once it is computed again.

    Args:
        model: In the mode that it trains in; its weights do not count.
        inputs: (n, ...).
        kind: What is computed again.
    """
    counting = _Counting()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    blocks = list(smallest_blocks_of(model).values()) if kind != "none" else []
    hooks = [block.register_forward_pre_hook(counting.enter) for block in blocks]
    hooks += [block.register_forward_hook(counting.leave) for block in blocks]
    try:
        with counting, torch.autograd.graph.saved_tensors_hooks(counting.saved, lambda tensor: tensor):
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    inside = [sum(size for pointer, size in each.items() if pointer not in own) for each in counting.inside]
    outside = sum(size for pointer, size in counting.outside.items() if pointer not in own)
    again = max(inside, default=0) + counting.block_inputs
    return outside + again + (counting.costly if kind == "light" else 0)


class _Counting(TorchDispatchMode):
    """Counts what a pass keeps, within blocks and outside of them, by its memory; and what costly operations make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.outside: dict[int, int] = {}
        self.inside: list[dict[int, int]] = []
        self.current, self.costly, self.block_inputs = self.outside, 0, 0

    def enter(self, _block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.inside.append({})
        self.current = self.inside[-1]
        self.block_inputs += sum(value.nbytes for value in inputs if isinstance(value, Tensor))

    def leave(self, *_: Any) -> None:
        self.current = self.outside

    def saved(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.current[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = operation(*arguments, **(options or {}))
        if operation in COSTLY and self.current is not self.outside:
            self.costly += sum(part.nbytes for part in pytree.tree_leaves(result) if isinstance(part, Tensor))
        return result


def _checkpointed(block: nn.Module, forward: Any, kind: Recomputed, *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled() or (kind == "light" and not block.training):
        return forward(*inputs, **options)
    contexts = partial(_contexts, block, kind)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _contexts(block: nn.Module, kind: Recomputed) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return what the first pass runs in, and the second."""
    keeping, using = (
        create_selective_checkpoint_contexts(_policy) if kind == "light" else (nullcontext(), nullcontext())
    )
    return keeping, _nested(_statistics_as_they_are(block), _dropout_as_it_was(block), using)


@contextmanager
def _nested(*contexts: AbstractContextManager[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def _policy(_context: Any, operation: Any, *_arguments: Any, **_options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in COSTLY else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _statistics_as_they_are(block: nn.Module) -> Iterator[None]:
    """Context in which what batch norms track is tracked in copies, and forgotten."""
    tracked = [(norm, dict(norm._buffers)) for norm in block.modules() if isinstance(norm, _BatchNorm)]
    for norm, buffers in tracked:
        norm._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in tracked:
            norm._buffers.update(buffers)


def _dropout_as_it_was(block: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which layers of dropout are used as often as they were when this was called."""
    layers = [vars(module).get("forward") for module in block.modules()]
    before = [(layer, layer.uses) for layer in layers if isinstance(layer, RowDropout)]

    @contextmanager
    def context() -> Iterator[None]:
        after = [(layer, layer.uses) for layer, _ in before]
        for layer, uses in before:
            layer.uses = uses
        try:
            yield
        finally:
            for layer, uses in after:
                layer.uses = uses

    return context()
