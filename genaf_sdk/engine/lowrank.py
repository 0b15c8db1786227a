"""LoRA: layers of the encoder learn a product of two thin matrices, which becomes part of their weights afterwards."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from genaf_sdk.engine.randomness import kept_random_state
from genaf_sdk.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genaf_sdk.engine.stage import Stage
    from genaf_sdk.models.classifier import Classifier

SCALE = 2
"""What the product is multiplied by: LoRA's alpha over its rank."""


@contextmanager
def low_rank(model: Classifier, stage: Stage, rank: int | None, key: int) -> Iterator[Stage]:
    """Context in which the encoder's layers learn updates of low rank alone; yields the stage that trains these.

    Hu et al., ICLR 2022, by the library peft. Layers are those linear and convolutional ones, of one group and of a
    weight of their own, that the encoder calls and the stage trains. The head learns as ever. At the end the updates
    are added to the weights, and the model is made of the layers that it had. If training fails, it is not.

    Args:
        model: The classifier, changed in place.
        stage: What would train the whole encoder.
        rank: Of the updates; None trains the weights themselves.
        key: Of the random numbers that updates start from; they start as zero.

    Raises:
        ConfigError: The library is missing.
        TrainingError: An update is not finite.
    """
    names = [] if rank is None else [name for name in _layers(model) if stage.trains(f"encoder.{name}.weight")]
    if rank is None or not names:
        yield stage
        return
    peft = _peft()
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    config = peft.LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules="|".join(map(re.escape, names)))
    with kept_random_state():
        torch.manual_seed(key)
        peft.inject_adapter_in_model(config, model.encoder)
    own = {name for name, _ in model.named_parameters()} - {_wrapped(name, names) for name in required}
    yield replace(stage, trains=lambda name: name in own or (name.startswith("head.") and stage.trains(name)))
    _merge(model.encoder, names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(required[name])


def _layers(model: Classifier) -> list[str]:
    """Return the layers of the encoder that can learn such an update: those whose own ``forward`` is called.

    The weight of a layer that another one reads, as attention layers of torch do, would not see it; nor would the other
    place of a weight that has two, nor a weight that a hook computes before every pass, as weight normalization does.
    """
    places = Counter(id(weight) for _, weight in model.encoder.named_parameters(remove_duplicate=False))
    found = {
        module: name
        for name, module in model.encoder.named_modules()
        if (type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1))
        and places[id(module.weight)] == 1
    }
    called: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in found]
    try:
        model.encoder.feature_dim(model.image_size)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[module] for module in found if module in called]


def _merge(encoder: nn.Module, names: list[str]) -> None:
    for name in names:
        layer: Any = encoder.get_submodule(name)
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise TrainingError(f"The low-rank update of {name!r} is not finite: {error}.") from error
        encoder.set_submodule(name, layer.get_base_layer())


def _wrapped(parameter: str, names: list[str]) -> str:
    """Return the name that a parameter has while its layer is wrapped."""
    layer, _, last = parameter.removeprefix("encoder.").rpartition(".")
    return f"encoder.{layer}.base_layer.{last}" if parameter.startswith("encoder.") and layer in names else parameter


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "tuning.lora_rank needs the library peft, which is not installed.",
            remedy="run `pip install 'genaf-sdk[lora]'`, or train the last blocks alone (tuning.train_last)",
        ) from error
    return peft
