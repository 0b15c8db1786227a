"""``preprocessor_config.json`` of transformers, in full, as one normalization of pixels in [0, 1].

A processor computes ``((b * rescale_factor - 1 if rescale_offset) - image_mean) / image_std`` of bytes ``b``, of which
some steps may be switched off; on pixels ``b / 255`` that is ``(pixels - mean) / std`` with another mean and std.

Source: transformers 5.24, image_processing_utils and the processors of EfficientNet and ViViT (``rescale_offset``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.encoder import numbers

if TYPE_CHECKING:
    from genaf_sdk.encoders.source import EncoderOptions

PROCESSOR = "preprocessor_config.json"
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers
USABLE = ("nearest", "lanczos", "bilinear", "bicubic")
ALIKE = 1e-9
FLAGS = ("do_rescale", "do_normalize", "do_resize", "do_center_crop", "rescale_offset", "include_top")
HARMLESS = ("do_convert_rgb", "do_pad", "do_reduce_labels")
"""Steps that images of one size and three channels do not need, or that change labels alone."""


@dataclass(frozen=True)
class Preprocessing:
    """What happens to pixels in [0, 1] before the model: ``(pixels - mean) / std``, after resizing."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int] | None
    interpolation: str


def read_processor(processor: dict[str, Any], config: Any, name: str, options: EncoderOptions) -> Preprocessing:
    """Return what a processor does; mean and std that the caller passed go before its own.

    Args:
        processor: The content of ``preprocessor_config.json``; empty where there is none.
        config: The model's configuration, whose ``image_size`` counts where the processor states none.
        name: The repository, for messages.
        options: What the caller asked for.

    Raises:
        EncoderError: The processor does what is not done here, or does not say what is needed.
    """
    for flag in FLAGS:
        if not isinstance(processor.get(flag, False), (bool, type(None))):
            raise _refused(name, f"{flag} is {processor[flag]!r}", "true or false")
    if processor.get("do_flip_channel_order"):
        raise EncoderError(f"{name!r} takes images as blue, green, red.", remedy="wrap it in a module that takes RGB")
    others = [key for key, on in processor.items() if key.startswith("do_") and on and key not in {*FLAGS, *HARMLESS}]
    if others:
        raise _refused(name, f"it asks for {others[0]}", "steps that are resizing, cropping or normalizing")
    interpolation = _interpolation(processor.get("resample", 2), name)
    size = _size(processor, config, name)
    if options.mean is not None and options.std is not None:
        return Preprocessing(options.mean, options.std, size, interpolation)
    mean, std = _normalization(processor, name)
    return Preprocessing(mean, std, size, interpolation)


def _normalization(processor: dict[str, Any], name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    factor, offset = 1.0, 0.0  # what a byte is multiplied by, and what is taken off it
    if processor.get("do_rescale", True) is not False:
        factor = _number(processor.get("rescale_factor", 1 / 255), "rescale_factor", name)
        offset = 1.0 if processor.get("rescale_offset") else 0.0
    if factor <= 0:
        raise _refused(name, f"rescale_factor is {factor}", "a positive number")
    normalizes = processor.get("do_normalize", True) is not False
    if normalizes:
        for key in ("image_mean", "image_std"):
            if processor.get(key) is None:
                raise EncoderError(
                    f"{name!r} does not state its normalization: {PROCESSOR} has no {key!r}.",
                    remedy="pass load_encoder(..., mean=(...), std=(...))",
                )
        means, stds = numbers(processor["image_mean"], "mean"), numbers(processor["image_std"], "standard deviation")
        means, stds = (values * max(len(means), len(stds)) if len(values) == 1 else values for values in (means, stds))
    else:
        means, stds = (0.0,), (1.0,)
    kind = str(processor.get("image_processor_type", processor.get("feature_extractor_type", "")))
    if processor.get("include_top", kind.startswith("EfficientNet")):  # divides again, by the standard deviation alone
        seconds = numbers(processor.get("image_std", 1.0), "standard deviation")
        stds = stds * len(seconds) if len(stds) == 1 else stds
        means = means * len(seconds) if len(means) == 1 else means
        if len(seconds) not in (1, len(stds)):
            raise _refused(name, f"image_std has {len(seconds)} values", f"{len(stds)}")
        seconds = seconds * len(stds) if len(seconds) == 1 else seconds
        stds = tuple(first * second for first, second in zip(stds, seconds, strict=True))
    scale = factor * 255
    mean, std = tuple((value + offset) / scale for value in means), tuple(value / scale for value in stds)
    if all(abs(value) < ALIKE for value in mean) and all(abs(value - 1) < ALIKE for value in std):
        return (), ()
    return mean, std


def _size(processor: dict[str, Any], config: Any, name: str) -> tuple[int, int] | None:
    """Return (H, W) of the images that reach the model: as cropped, else as resized, else the model's own."""
    cropped = processor.get("crop_size") if processor.get("do_center_crop", True) is not False else None
    resized = processor.get("size") if processor.get("do_resize", True) is not False else None
    size: Any = cropped or resized or getattr(config, "image_size", None)
    if isinstance(size, dict):
        side = size.get("shortest_edge")
        size = (size.get("height", side), size.get("width", side))
    if isinstance(size, int):
        size = (size, size)
    if not size or not all(size):
        return None
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError) as error:
        raise _refused(name, f"the size is {size!r}", "height and width, or one number") from error
    if height < 1 or width < 1:
        raise _refused(name, f"the size is {size!r}", "positive numbers")
    return height, width


def _interpolation(resample: object, name: str) -> str:
    if resample is None:
        return "bilinear"
    found = resample.lower() if isinstance(resample, str) else None
    if isinstance(resample, int):
        found = RESAMPLING.get(resample)
    if found not in USABLE:
        raise _refused(name, f"resample is {resample!r}", f"one of {', '.join(USABLE)}, or Pillow's number of it")
    return str(found)


def _number(value: object, key: str, name: str) -> float:
    found = numbers(value, key)
    if len(found) != 1:
        raise _refused(name, f"{key} is {value!r}", "one number")
    return found[0]


def _refused(name: str, what: str, expected: str) -> EncoderError:
    return EncoderError(
        f"The {PROCESSOR} of {name!r} cannot be followed: {what}.",
        expected=expected,
        remedy="pass load_encoder(..., mean=(...), std=(...), image_size=(H, W)) and fix the file",
    )
