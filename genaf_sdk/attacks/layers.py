"""Finds layers of any encoder by depth or by name, and reads their activations.

A layer is a convolution, a linear map or an attention block (``nn.MultiheadAttention``). They are listed in the order
in which a forward pass runs them, so that "low" and "middle" mean the same in a CNN and in a vision transformer.
"""

from __future__ import annotations

import difflib
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genaf_sdk.errors import AttackError

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.MultiheadAttention)
NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.SyncBatchNorm)


class _Reached(Exception):  # noqa: N818  # a jump, not an error
    """Ends a forward pass once every wanted activation is there."""


def layers_of(encoder: nn.Module, images: Tensor) -> list[str]:
    """Return the names of an encoder's layers in execution order.

    A normalization that follows a convolution directly is counted to it and lends it its name: before it, the scale of
    a channel says nothing about its weight in what follows. Of branches that start from the same tensor, the first to
    run stands for all: the shortcuts of residual networks are thin, and attacks on them are weak.

    Args:
        encoder: Any module.
        images: A few images that it accepts, (N, C, H, W).

    Raises:
        AttackError: The encoder has no such layer.
    """
    found: list[str] = []
    last: object = None
    branched: list[object] = []  # keeps the inputs alive, so that none is taken for another

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        nonlocal last
        given = next(iter((*inputs, *options.values())), None)
        if isinstance(module, NORMS) and found and given is last:
            found[-1] = name
        elif isinstance(module, LAYERS) and name not in found and not any(known is given for known in branched):
            found.append(name)
            branched.append(given)
            last = output

    with ExitStack() as hooks, torch.no_grad():
        for name, module in encoder.named_modules():
            if isinstance(module, (*LAYERS, *NORMS)):
                hook = module.register_forward_hook(partial(note, name), with_kwargs=True)
                hooks.callback(hook.remove)
        encoder(images[:2])
    if not found:
        raise AttackError(
            f"The encoder ({type(encoder).__name__}) has no convolution, linear map or attention that is a module.",
            remedy="use an attack that looks at features alone, such as 'uapgd'",
        )
    return found


def layer_at(encoder: nn.Module, images: Tensor, depth: float, name: str = "") -> str:
    """Return the name of the layer at a relative depth, 0 for the first and 1 for the last; or ``name``, checked.

    Args:
        encoder: Pixels to features.
        images: A few, (n, C, H, W) in [0, 1], at the size to attack.
        depth: A share of the layers, in the order of the forward pass.
        name: That of any module that the forward pass runs, a whole block for example; empty goes by the depth.

    Raises:
        AttackError: There is no layer at all, or no module has that name; the nearest ones are given.
    """
    if not name:
        layers = layers_of(encoder, images)
        return layers[round(depth * (len(layers) - 1))]
    names = [known for known, _ in encoder.named_modules() if known]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
        raise AttackError(
            f"The encoder has no layer {name!r}.", expected=f"one of its modules, such as {', '.join(near)}"
        )
    return name


def activations(encoder: nn.Module, names: Sequence[str], images: Tensor) -> list[Tensor]:
    """Return what the named modules put out for ``images``; the pass ends with the last of them.

    Args:
        encoder: Any module.
        names: Names of its modules.
        images: (N, C, H, W).

    Raises:
        AttackError: The forward pass does not reach a module, or it puts out no tensor.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(tensor, Tensor):
            raise AttackError(f"The layer {name!r} puts out a {type(output).__name__}.", expected="a tensor")
        outputs[name] = tensor.clone()  # a ReLU in place may come next
        if len(outputs) == len(set(names)):
            raise _Reached

    modules = dict(encoder.named_modules())
    with ExitStack() as hooks:
        for name in names:
            hook = modules[name].register_forward_hook(lambda _m, _i, o, name=name: keep(name, o))
            hooks.callback(hook.remove)
        try:
            encoder(images)
        except _Reached:
            return [outputs[name] for name in names]
    missing = next(name for name in names if name not in outputs)
    raise AttackError(f"The encoder's forward pass never runs its module {missing!r}.", remedy="name another layer")
