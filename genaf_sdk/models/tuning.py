"""Which of an encoder's weights are trained, and in what form: all of them, the last blocks, low-rank updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn.modules.batchnorm import _NormBase

from genaf_sdk.errors import ConfigError, EncoderError
from genaf_sdk.models.blocks import blocks_of
from genaf_sdk.registry import nearest
from genaf_sdk.settings import Count, Settings

if TYPE_CHECKING:
    from collections.abc import Container

    from torch import nn

    from genaf_sdk.models.encoder import PixelEncoder


@dataclass(frozen=True)
class TuningConfig(Settings):
    """Which of the encoder's weights are trained, and in what form; by default all of them, as they are.

    Weights that are not trained stay those that an attacker can download, as do the statistics of their batch norms.
    """

    train_last: Count | None = None
    """Train the last so many blocks (stages of a ResNet, blocks of a transformer) and what comes after them."""
    train_only: tuple[str, ...] = ()
    """Train the modules and parameters of these names, as the encoder's ``named_modules()`` spells them."""
    lora_rank: Count | None = None
    """In stage 1 every linear layer and convolution that is trained learns an update of this rank (LoRA, Hu et al.,
    ICLR 2022), which is added to its weight afterwards; weights of norms and biases stay, while the statistics of batch
    norms follow what they normalize, which the updates change. Needs the extra ``lora``."""

    def check(self) -> None:
        """Refuse two choices of what is trained.

        Raises:
            ConfigError: Both are given.
        """
        if self.train_last is not None and self.train_only:
            raise ConfigError(
                f"train_last is {self.train_last}, and train_only is {self.train_only}.", expected="one of them"
            )


def freeze(encoder: PixelEncoder, tuning: TuningConfig) -> None:
    """Freeze what is not to be trained; what its owner froze stays so.

    Raises:
        EncoderError: There is no part of a name, or no such number of blocks.
    """
    backbone = encoder.backbone
    names = [name for name, _ in backbone.named_parameters()]
    trained = set(names)
    if tuning.train_last is not None:
        trained = set(names[_first_of_last(names, list(blocks_of(backbone)), tuning.train_last) :])
    elif tuning.train_only:
        modules = [name for name, _ in backbone.named_modules() if name]
        for part in tuning.train_only:
            if part not in (*modules, *names):
                raise EncoderError(
                    f"train_only names {part!r}, and the encoder has no such part.",
                    expected=f"one such as {nearest(part, [*modules, *names], count=5)}",
                )
        wanted = tuning.train_only
        trained = {name for name in names if any(name == part or name.startswith(f"{part}.") for part in wanted)}
    for name, parameter in backbone.named_parameters():
        if name not in trained:
            parameter.requires_grad_(False)


def freeze_statistics(model: nn.Module, frozen: Container[str]) -> None:
    """Put batch norms of frozen parts into eval mode, as their running statistics would go on changing else.

    Such a norm has frozen parameters alone; one without any is of the part that it stands in.

    Args:
        model: The classifier, in the mode that it trains in.
        frozen: Names of its frozen parameters.
    """
    for place, module in model.named_modules():
        if isinstance(module, _NormBase):
            part: nn.Module = module
            while place and next(part.parameters(), None) is None:
                place = place.rpartition(".")[0]
                part = model.get_submodule(place)
            if all(f"{place}.{name}" in frozen for name, _ in part.named_parameters()):
                module.eval()


def _first_of_last(names: list[str], blocks: list[str], count: int) -> int:
    """Return the place of the first parameter of the last ``count`` blocks."""
    if not blocks:
        raise EncoderError(
            f"train_last is {count}, and the encoder has no repeated blocks.",
            remedy="name the parts to train in train_only",
        )
    if count > len(blocks):
        raise EncoderError(
            f"train_last is {count}, and the encoder has {len(blocks)} blocks, from {blocks[0]!r} to {blocks[-1]!r}.",
            expected=f"at most {len(blocks)}",
        )
    return next(place for place, name in enumerate(names) if name.startswith(f"{blocks[-count]}."))
