"""What can be done to any module before it is trained: unwrapping, copying, finding what its owner froze."""

from __future__ import annotations

import copy
import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from genaf_sdk.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPILED = "_orig_mod."
"""What torch.compile puts into names of weights."""
Copied = TypeVar("Copied")
TORCH_KEEPS = frozenset(vars(nn.Module()))
"""Attributes that every module has: its parameters, buffers, submodules and hooks."""
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what is inside of torch.compile, DataParallel and DistributedDataParallel, however often."""
    while True:
        inner = module.module if isinstance(module, WRAPPERS) else getattr(module, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def unregistered(module: nn.Module) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the floating tensors that a module keeps outside of its parameters and buffers, by attribute.

    They are found in attributes, and in lists, tuples and dicts there, as are the weights of layers that lie in these:
    torch knows nothing of either, so that they are neither trained, saved nor moved to another device.
    """
    known = {tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    parts = {id(part) for part in module.modules()}
    seen: set[int] = set()

    def held(value: object) -> Iterator[Tensor]:
        if id(value) in parts or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.is_floating_point() and value.data_ptr() not in known:
                yield value
        elif isinstance(value, (list, tuple, dict)):
            for member in value.values() if isinstance(value, dict) else value:
                yield from held(member)
        elif isinstance(value, nn.Module):
            for tensor in (*value.parameters(), *value.buffers()):
                yield from held(tensor)

    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in TORCH_KEEPS and (found := list(held(value))):
                yield f"{path}.{name}".lstrip("."), found


def in_single_precision(module: nn.Module) -> nn.Module:
    """Return the module with all floating weights in float32: itself, or a copy where some are in another precision.

    Raises:
        EncoderError: A copy is needed and cannot be made.
    """
    tensors = (*module.parameters(), *module.buffers())
    if all(value.dtype == torch.float32 or not value.is_floating_point() for value in tensors):
        return module
    return copied(module).float()


def copied(module: nn.Module) -> nn.Module:
    """Return a deep copy; results that a layer keeps from its last pass are copied without their history.

    Raises:
        EncoderError: The module holds what cannot be copied, such as a lock or an open file.
    """
    return _deep_copy(module, module, {})


def copied_state(module: nn.Module, memo: dict[int, Any]) -> dict[str, Any]:
    """Return what ``copied`` copies, as ``__deepcopy__`` of a class of modules needs it.

    Raises:
        EncoderError: As for ``copied``.
    """
    return _deep_copy(module.__getstate__(), module, memo)


def require_own_forward(module: nn.Module) -> None:
    """Refuse a module one of whose ``forward`` was replaced by a function that holds on to a module.

    A copy of it would go on computing with the original's weights, whichever are trained and saved.

    Raises:
        EncoderError: There is one.
    """
    for name, part in module.named_modules():
        replaced = vars(part).get("forward")
        if replaced is not None and _holds_a_module(replaced):
            raise EncoderError(
                f"The forward of {name or type(part).__name__!r} was replaced by a function that refers to a module; a "
                "copy of the encoder would go on computing with the weights of the original.",
                expected="a forward that uses nothing but self",
                remedy="define forward in a subclass, or wrap the encoder in a module of your own",
            )


def _holds_a_module(function: object) -> bool:
    if isinstance(function, functools.partial):
        held = (function.func, *function.args, *function.keywords.values())
        return any(isinstance(value, nn.Module) or _holds_a_module(value) for value in held)
    if not inspect.isfunction(function):  # bound methods are bound anew when they are copied
        return False
    try:
        variables = inspect.getclosurevars(function)
    except ValueError:  # a cell that is still empty
        return True
    return any(isinstance(value, nn.Module) for value in (*variables.nonlocals.values(), *variables.globals.values()))


def _deep_copy(value: Copied, module: nn.Module, memo: dict[int, Any]) -> Copied:
    for result in _kept_results(module):
        memo[id(result)] = result.detach().clone()
    try:
        return copy.deepcopy(value, memo)
    except (TypeError, RuntimeError, ValueError, AttributeError) as error:
        raise EncoderError(
            f"The encoder ({type(module).__name__}) cannot be copied: {error}.",
            expected="a module that copy.deepcopy takes: training works on a copy and leaves yours as it is",
            remedy="keep locks, files and connections out of the module",
        ) from error


def _kept_results(module: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors with a history that a module or a part of it keeps as a plain attribute."""
    for part in module.modules():
        for value in vars(part).values():
            members = value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else ()
            for tensor in (value, *members):
                if isinstance(tensor, Tensor) and not tensor.is_leaf:
                    yield tensor
