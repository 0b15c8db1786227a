"""Batch norms folded into the convolutions before them: the same function, without their passes over memory.

In eval mode a batch norm is one factor and one summand a channel, which the convolution can have in its weights. An
attack on a network whose weights stand still then has fewer passes to make, forward and back.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from genaf_sdk.models.forwards import exchanged_forwards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

Pairs = tuple[tuple[nn.Conv2d, nn.BatchNorm2d], ...]
PROBES = 2
TOLERANCE = 1e-3
"""How far outputs may lie apart, as a share of the largest, for a folding to count as the same function."""

_FOUND: WeakKeyDictionary[nn.Module, tuple[list[int], Pairs]] = WeakKeyDictionary()
"""Model -> the ids of its modules, and which of them fold as long as these are the same."""


@contextmanager
def folded_batch_norms(model: nn.Module, inputs: Tensor) -> Iterator[None]:
    """Context: ``model``, in eval mode, computes what it did, with batch norms folded into convolutions where it can.

    What it computes depends on its inputs alone: weights get no gradient of a convolution that was folded, and changes
    of weights inside the context are not seen. Which batch norms follow a convolution is read off the graph of one pass
    of two inputs, once a model and again when one of its modules was exchanged; if the folded model answers otherwise
    than the plain one, nothing is folded.

    Args:
        model: Inputs to outputs, one tensor; in eval mode.
        inputs: Valid ones, (n, *shape).
    """
    parts = list(map(id, model.modules()))
    known, pairs = _FOUND.get(model, ([], ()))
    if known != parts and len(inputs):
        pairs = _checked(model, inputs[:PROBES], foldable(model, inputs[:PROBES]))
        _FOUND[model] = parts, pairs
    with _folded(pairs):
        yield


def foldable(model: nn.Module, inputs: Tensor) -> Pairs:
    """Return every convolution of ``model`` whose output goes into one batch norm and nowhere else, with that one.

    Args:
        model: Inputs to outputs, one tensor.
        inputs: A few valid ones, (n, *shape).
    """
    modules = list(model.modules())
    plain = [module for module in modules if _is_plain(module)]
    if len({type(module) for module in plain}) < 2 or any(map(_is_compiled, modules)):
        return ()
    made: dict[Any, nn.Conv2d] = {}
    taken: list[tuple[Any, nn.BatchNorm2d]] = []
    calls: Counter[nn.Module] = Counter()

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        if type(module) is nn.Conv2d:
            made[output.grad_fn] = module
        elif type(module) is nn.BatchNorm2d:
            taken.append((given[0].grad_fn, module))

    hooks = [module.register_forward_hook(note) for module in plain]
    try:
        with torch.enable_grad():
            output = model(inputs.detach().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    uses = _uses(output.grad_fn)
    return tuple(
        (made[node], norm)
        for node, norm in taken
        if node in made and uses[node] == 1 and calls[norm] == calls[made[node]] == 1
    )


def _is_compiled(module: nn.Module) -> bool:
    """Return whether ``torch.compile`` made a module.

    Its package takes a second to load and is loaded by then; another thread may be loading it just now.
    """
    made = getattr(sys.modules.get("torch._dynamo"), "OptimizedModule", None)
    return made is not None and isinstance(module, made)


def _is_plain(module: nn.Module) -> bool:
    """Return whether a module is a convolution or batch norm as torch makes it, with weights that can be read here."""
    if type(module) is nn.BatchNorm2d and module.running_mean is None:
        return False
    parameters = list(module.parameters(recurse=False))
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    whole = all(type(parameter.data) is Tensor for parameter in parameters)  # not a shard
    return type(module) in (nn.Conv2d, nn.BatchNorm2d) and whole and not hooked


def _uses(last: Any) -> Counter[Any]:
    """Return how often each node of a graph is an input of another."""
    uses: Counter[Any] = Counter()
    waiting, seen = [last], {last}
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None:
                continue
            uses[node] += 1
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return uses


@torch.no_grad()
def _checked(model: nn.Module, inputs: Tensor, pairs: Pairs) -> Pairs:
    """Return the pairs if the model answers alike with them folded, else none."""
    if not pairs:
        return ()
    with torch.autocast(inputs.device.type, enabled=False):
        plain = model(inputs)
        with _folded(pairs):
            folded = model(inputs)
    alike = (plain - folded).abs().max() <= TOLERANCE * plain.abs().max()
    return pairs if bool(alike) else ()


def _folded(pairs: Pairs) -> AbstractContextManager[None]:
    convolutions = [(one, partial(_convolve, one, *_joined(one, norm))) for one, norm in pairs]
    return exchanged_forwards([*convolutions, *((norm, _unchanged) for _, norm in pairs)])


@torch.no_grad()
def _joined(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution that does what the two do one after the other."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise TypeError("a batch norm without statistics cannot be folded")
    factor = torch.rsqrt(variance + norm.eps) * (1 if norm.weight is None else norm.weight)
    summand = (0 if convolution.bias is None else convolution.bias) - mean
    weight = convolution.weight * factor.view(-1, 1, 1, 1)
    return weight, summand * factor + (0 if norm.bias is None else norm.bias)


def _convolve(convolution: nn.Conv2d, weight: Tensor, bias: Tensor, inputs: Tensor) -> Tensor:
    outputs: Tensor = convolution._conv_forward(inputs, weight, bias)
    return outputs


def _unchanged(inputs: Tensor) -> Tensor:
    return inputs
