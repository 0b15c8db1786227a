"""The repeated parts that an encoder is made of: stages of a ResNet, blocks of a transformer."""

from __future__ import annotations

from torch import nn


def blocks_of(module: nn.Module) -> dict[str, nn.Module]:
    """Return the outermost parts that repeat, by name, in the order in which they are registered.

    Parts repeat where a module has at least two children of one class that are made of layers with weights; plain
    sequences, where they are made of such parts. Where that holds in several places at the same depth, those of most
    weights are meant. Empty where nothing repeats.
    """
    level = {"": module}
    while level:
        groups = [group for name, parent in level.items() for group in _siblings(name, parent) if len(group) > 1]
        if groups:
            return max(groups, key=lambda group: sum(_size(part) for part in group.values()))
        level = {
            _joined(name, child): part for name, parent in level.items() for child, part in parent.named_children()
        }
    return {}


def smallest_blocks_of(module: nn.Module) -> dict[str, nn.Module]:
    """Return the innermost parts that repeat: blocks where ``blocks_of`` returns stages that are made of some."""
    found: dict[str, nn.Module] = {}
    for name, block in blocks_of(module).items():
        inner = {_joined(name, path): part for path, part in smallest_blocks_of(block).items()}
        found |= inner or {name: block}
    return found


def _siblings(name: str, parent: nn.Module) -> list[dict[str, nn.Module]]:
    """Return the children that are made of layers with weights, those of one class together."""
    groups: dict[type[nn.Module], dict[str, nn.Module]] = {}
    for child, part in parent.named_children():
        inner = _with_weights(part)
        if inner and (not isinstance(part, nn.Sequential) or all(map(_with_weights, inner))):
            groups.setdefault(type(part), {})[_joined(name, child)] = part
    return list(groups.values())


def _with_weights(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.children() if _size(part)]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _joined(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child
