"""What every source of encoders shares: what the caller asked for, what is listed, and how options are spelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.encoder import PixelEncoder, numbers
from genaf_sdk.models.modules import in_single_precision

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class KnownEncoder:
    """One line of ``genaf encoders``.

    Args:
        id: What ``load_encoder`` takes.
        source: Who publishes it: ``bundled``, ``timm``, ``torchvision`` and so on.
        license: Of the weights, as the publisher states it; empty where it is not stated.
        parameters: How many numbers the weights are; None where that is not known without building the model.
        weights: Whether trained weights come with it. False: an architecture or a place-holder such as PATH.
        image_size: (H, W) it was made for; None where that depends.
    """

    id: str
    source: str
    license: str = ""
    parameters: int | None = None
    weights: bool = True
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class EncoderOptions:
    """What the caller of ``load_encoder`` asked for beside the id; None and empty mean "as the encoder has it".

    Args:
        mean: Per-channel mean of the normalization, in pixel units.
        std: Per-channel standard deviation, likewise.
        image_size: (H, W) that the data is resized to.
        channels: Channels of an image.
        architecture: Id of the architecture that a bare checkpoint's weights belong to.
        trusted: Whether a ``.pt2`` program, which is code, may be run.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: tuple[int, int] | None = None
    channels: int = 3
    architecture: str = ""
    trusted: bool = False

    def encoder(
        self,
        backbone: nn.Module,
        *,
        source: str,
        mean: float | Sequence[float] = (),
        std: float | Sequence[float] = (),
        image_size: tuple[int, int] | None = None,
        interpolation: str = "bilinear",
        channels: int | None = None,
    ) -> PixelEncoder:
        """Return the backbone with the normalization its source states, where the caller asked for no other.

        Weights of another precision than float32 are converted, in a copy.

        Args:
            backbone: The encoder, from normalized images (N, C, H, W) to features (N, D).
            source: The id that ``build`` makes the same architecture from.
            mean: What the source states: per-channel mean, in pixel units.
            std: Per-channel standard deviation, likewise.
            image_size: (H, W) it was made for; None where it takes any.
            interpolation: How its training images were resized.
            channels: Of the images it takes; by default those that the caller asked for.

        Raises:
            EncoderError: The stated normalization is for another number of channels and the caller gave none.
        """
        channels = self.channels if channels is None else channels
        means = numbers(mean if self.mean is None else self.mean, "mean")
        stds = numbers(std if self.std is None else self.std, "standard deviation")
        if self.mean is None and len(means) not in (0, channels):
            if len(set(means)) > 1 or len(set(stds)) > 1:
                raise EncoderError(
                    f"The normalization of {source!r} is for {len(means)} channels, the images have {channels}.",
                    expected=f"{channels} means and standard deviations",
                    remedy="pass mean= and std=, one value a channel",
                )
            means, stds = means[:1], stds[:1]
        return PixelEncoder(
            in_single_precision(backbone),
            source=source,
            mean=means,
            std=stds,
            image_size=self.image_size or image_size,
            interpolation=interpolation,
            channels=channels,
        ).eval()


@dataclass
class Source:
    """A place that encoders come from: one file of this folder, or an entry point of another package.

    Args:
        name: The prefix of its ids, before the colon.
        load: Returns the encoder of a name, with its weights.
        build: Returns the architecture of a name, without weights and without asking the network.
        known: Returns what can be named, without asking the network.
    """

    name: str
    load: Callable[[str, EncoderOptions], PixelEncoder]
    build: Callable[[str], nn.Module]
    known: Callable[[], list[KnownEncoder]]


def read_options(text: str, encoder_id: str, allowed: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Split what follows an encoder's name, ``WEIGHTS,key=value,...``, into weights and options.

    Raises:
        EncoderError: An option is not one of ``allowed``.
    """
    weights, options = "", {}
    for part in filter(None, text.split(",")):
        key, separator, value = part.partition("=")
        if not separator:
            weights = key
        elif key in allowed and value:
            options[key] = value
        else:
            raise EncoderError(
                f"The encoder id {encoder_id!r} has the option {part!r}.",
                expected=f"options of the form key=value, with key one of {', '.join(allowed)}",
            )
    return weights, options


def write_size(size: tuple[int, int]) -> str:
    """Spell (H, W) as ``HxW``."""
    return f"{size[0]}x{size[1]}"


def read_size(text: str, encoder_id: str) -> tuple[int, int]:
    """Read ``HxW``.

    Raises:
        EncoderError: It is spelled otherwise.
    """
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) > 0 and int(width) > 0):
        raise EncoderError(f"{encoder_id!r} has the size {text!r}.", expected="HEIGHTxWIDTH, such as 224x224")
    return int(height), int(width)


def read_number(text: str, encoder_id: str) -> int:
    """Read a whole number of at least 1.

    Raises:
        EncoderError: It is none.
    """
    if not text.isdigit() or int(text) < 1:
        raise EncoderError(f"{encoder_id!r} has the value {text!r}.", expected="a whole number of at least 1")
    return int(text)
