"""How a classifier lies on disk: ``config.json`` says what it is, ``model.safetensors`` holds its weights."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genaf_sdk._version import __version__
from genaf_sdk.errors import EncoderError, GenafError, OutputError
from genaf_sdk.files import once, read_json, replacing, write_json
from genaf_sdk.inputs.images import Interpolation
from genaf_sdk.models.classifier import Classifier
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import DEFAULT, build_head, head_choice
from genaf_sdk.models.modules import COMPILED, copied, in_single_precision, unwrapped
from genaf_sdk.settings import Between, Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 1
SHOWN = 200
"""How much of a foreign text an error repeats."""
LONGEST = 2000
"""How long an error about a foreign encoder may be."""
MOST_SETTINGS, MOST_CLASSES = 16, 100_000
LARGEST_CONFIG, LARGEST_WEIGHTS = 4 * 2**20, 2**40
LARGEST_HEADER = 8 * 2**20
"""Bytes of the names and shapes in a file of weights, some 60,000 of them; the library itself takes minutes for ten
times as many."""
AGAIN = "write or download the model again"
Kind = TypeVar("Kind", bound=Classifier)
Side = Annotated[int, Between(1, 8192)]


@dataclass(frozen=True)
class StoredConfig(Settings):
    """``config.json``: what a model is. Foreign, so every value has a type and a range."""

    error: ClassVar[type[GenafError]] = OutputError

    encoder: str
    """The id that its architecture is built from; empty for a module of the user's own."""
    channels: Annotated[int, Between(1, 256)]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoder_image_size: tuple[Side, ...] | None
    """(H, W) the encoder was made for."""
    image_size: tuple[Side, ...]
    """(H, W) of the images the model was fine-tuned on."""
    class_names: tuple[str, ...]
    interpolation: Interpolation = "bilinear"
    head: dict[str, Any] | None = None
    """What ``build_head`` takes, but for the number of classes; None, as in older models: the paper's."""
    format: Annotated[int, Between(FORMAT, FORMAT)] = FORMAT
    genaf_sdk: str = __version__

    def check(self) -> None:
        """Refuse sizes that are no pairs, and class names that no reader could tell apart.

        Raises:
            OutputError: There are some.
        """
        for name, size in (("image_size", self.image_size), ("encoder_image_size", self.encoder_image_size)):
            if size is not None and len(size) != 2:
                raise OutputError(f"{name} is {size}.", expected="height and width")
        names = self.class_names
        _require_classes(len(names))
        if len(set(names)) != len(names):
            raise OutputError(f"There are {len(names)} class names, {len(set(names))} of them different.")
        if any(unicodedata.category(sign) == "Cc" for name in names for sign in name):
            raise OutputError("A class name holds control characters.", expected="text of one line")


def _require_classes(count: int) -> None:
    if not 0 < count <= MOST_CLASSES:
        raise OutputError(f"There are {count} class names.", expected=f"1 to {MOST_CLASSES}")


def require_file(path: Path, largest: int) -> None:
    """Refuse what is no regular file, such as a pipe, which is never read to its end, and files that are too large.

    Raises:
        OutputError: It is one of these, or missing.
    """
    if not path.is_file():
        raise OutputError(f"{path} is missing, or is no regular file.")
    if path.stat().st_size > largest:
        raise OutputError(f"{path} has {path.stat().st_size} bytes.", expected=f"at most {largest}")


def read_config(path: Path) -> StoredConfig:
    """Read ``config.json``; what a later version adds is passed over.

    Raises:
        OutputError: It is none of a hardened model, or a value has another type or is out of range.
    """
    require_file(path, LARGEST_CONFIG)
    config = read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise OutputError(
            f"{path} has format {str(config.get('format') if isinstance(config, dict) else None)[:SHOWN]!r}.",
            expected=f"format {FORMAT}",
            remedy="update genaf-sdk if the model was made by a newer version",
        )
    needed = [field.name for field in fields(StoredConfig)]
    missing = [name for name in needed[:7] if name not in config]
    if missing:
        raise OutputError(f"{path} states no {missing[0]!r}.", expected=", ".join(needed))
    try:
        if isinstance(config["class_names"], list):
            _require_classes(len(config["class_names"]))  # before each of them is looked at
        return StoredConfig.from_dict({name: config[name] for name in needed if name in config})
    except OutputError as error:
        named = OutputError(f"{path}: {error.problem}", expected=error.expected, remedy=AGAIN)
        raise _shortened(named) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights, as far as a model may have them.

    Raises:
        OutputError: It is none, or its header is too large or names a weight twice.
    """
    require_file(path, LARGEST_WEIGHTS)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length <= LARGEST_HEADER:  # the library says what is wrong with lengths beyond the file
                json.loads(file.read(length), object_pairs_hook=once)
        if LARGEST_HEADER < length < path.stat().st_size:
            raise ValueError(f"its header has {length} bytes, of at most {LARGEST_HEADER}")
        return load_file(path)
    except Exception as error:  # its reader raises more than it says, for headers that lie
        raise OutputError(f"{path} cannot be read: {str(error)[:SHOWN]}.", remedy=AGAIN) from error


def _require_finite(weights: dict[str, Tensor], path: Path) -> None:
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise OutputError(f"The weight {name!r} in {path} holds NaN or infinity.", expected="finite numbers")


def _shortened(error: GenafError) -> GenafError:
    """Return the error, which may repeat a foreign text, at a length that can be read."""
    if len(str(error)) < LONGEST:
        return error
    return type(error)(error.problem[:SHOWN], expected=error.expected[:SHOWN], remedy=error.remedy[:SHOWN])


def save_classifier(model: Classifier, folder: Path) -> None:
    """Write a model's settings and weights into ``folder``, which is made where it is missing.

    Raises:
        OutputError: The folder cannot be written.
        EncoderError: The head is none that could be built again.
    """
    stored = StoredConfig.from_dict(
        {
            "encoder": model.encoder.source,
            "channels": model.encoder.channels,
            "mean": model.encoder.mean.flatten().tolist(),
            "std": model.encoder.std.flatten().tolist(),
            "encoder_image_size": model.encoder.image_size,
            "image_size": model.image_size,
            "class_names": model.class_names,
            "interpolation": model.encoder.interpolation,
            "head": head_choice(model.head),
        }
    )
    with replacing(folder / WEIGHTS_FILE) as temporary:
        save_file(distinct_weights(model), temporary, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, stored.to_dict())


def is_stored(model: Classifier, folder: Path) -> bool:
    """Whether ``folder`` holds these very weights."""
    try:
        stored = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError):
        return False
    weights = distinct_weights(model)
    return stored.keys() == weights.keys() and all(torch.equal(stored[name], value) for name, value in weights.items())


def distinct_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name on the CPU; what has several names has the first, once.

    Names are those without ``torch.compile``.
    """
    state, found = model.state_dict(), {}
    for first, *_ in _names_of_one_tensor(state):
        value = state[first].detach().cpu()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        found[first.replace(COMPILED, "")] = value.contiguous() if whole else value.clone().contiguous()
    return found


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put what ``distinct_weights`` returned into a model of the same architecture, every name of a tensor included.

    Raises:
        OutputError: As for ``matched``.
    """
    model.load_state_dict(matched(model, weights))


def matched(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for every name of the model's state dict; the model may be one of shapes alone (meta device).

    Raises:
        OutputError: A weight is missing, is not one of the model's, or has another shape or type; or the model has one
            tensor where the weights have several of different values.
    """
    found: dict[str, Tensor] = {}
    known: set[str] = set()
    state = model.state_dict(keep_vars=True)
    for names in _names_of_one_tensor(state):
        given = [name for name in (name.replace(COMPILED, "") for name in names) if name in weights]
        if not given:
            raise OutputError(f"The weight {names[0]!r} is missing.")
        first, shape = weights[given[0]], tuple(state[names[0]].shape)
        if tuple(first.shape) != shape:
            raise OutputError(f"The weight {given[0]!r} has the shape {tuple(first.shape)}.", expected=f"{shape}")
        if first.dtype != state[names[0]].dtype:  # torch would round it, or drop an imaginary part
            raise OutputError(f"The weight {given[0]!r} is {first.dtype}.", expected=f"{state[names[0]].dtype}")
        if any(not torch.equal(weights[name], first) for name in given[1:]):
            raise OutputError(f"The weights {', '.join(given)} differ.", expected="one tensor of several names")
        known |= set(given)
        found |= dict.fromkeys(names, first)
    unknown = sorted(weights.keys() - known)
    if unknown:
        raise OutputError(f"The architecture has no weight {unknown[0][:SHOWN]!r}.")
    return found


def _names_of_one_tensor(state: dict[str, Tensor]) -> list[list[str]]:
    """Return the names of a state dict, those of the same memory together: tied weights, modules of two names."""
    groups: dict[object, list[str]] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):  # what get_extra_state returned
            raise EncoderError(
                f"The state {name!r} is a {type(value).__name__}.",
                expected="a state_dict of tensors: nothing else is saved, as nothing is unpickled",
                remedy="keep it in buffers, or make it anew in __init__",
            )
        place: object = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        groups.setdefault(place if value.numel() and not value.is_meta else id(value), []).append(name)
    return list(groups.values())


def load_classifier(
    folder: Path, kind: type[Kind], build: Callable[[str], nn.Module], *, backbone: nn.Module | None = None
) -> Kind:
    """Read what ``save_classifier`` wrote. Nothing in the folder is executed, and nothing is read beside its two files.

    An architecture is compared with the weights by its shapes before memory is taken for it.

    Args:
        folder: Where ``config.json`` and ``model.safetensors`` are.
        kind: ``Classifier``, or a subclass with the same constructor.
        build: Returns the architecture that an encoder's id names, without its weights and without the network.
        backbone: The architecture, where the encoder was a module of the user's own rather than an id; it is copied.

    Returns:
        The model in eval mode.

    Raises:
        OutputError: The folder does not hold a hardened model, or its files do not fit together.
        EncoderError: The architecture cannot be rebuilt without ``backbone``.
    """
    stored = read_config(folder / CONFIG_FILE)
    weights = _read_weights(folder / WEIGHTS_FILE)
    if backbone is None and not stored.encoder:
        raise EncoderError(
            f"{folder} holds a hardened module of your own, whose architecture no id describes.",
            remedy="pass from_pretrained(..., backbone=the_module)",
        )
    try:
        if backbone is None:
            _require_fitting(stored, weights, build)
        inner = build(stored.encoder) if backbone is None else in_single_precision(copied(unwrapped(backbone)))
        model = _assemble(kind, stored, weights, inner)
        load_weights(model, weights)
    except EncoderError as error:
        raise _shortened(error) from error
    except Exception as error:  # the libraries of encoders raise whatever their authors chose
        raise OutputError(
            f"The files in {folder} do not fit together, or not the encoder {stored.encoder[:SHOWN]!r}: "
            f"{str(error)[:SHOWN] or type(error).__name__}"
        ) from error
    _require_finite(weights, folder / WEIGHTS_FILE)
    return model.eval()


def _require_fitting(stored: StoredConfig, weights: dict[str, Tensor], build: Callable[[str], nn.Module]) -> None:
    """Compare the architecture with the weights on the meta device, where nothing is allocated.

    Raises:
        OutputError: They do not fit.
    """
    try:
        with torch.device("meta"):
            sketch = _assemble(Classifier, stored, weights, build(stored.encoder))
    except (EncoderError, RuntimeError) as error:
        if "meta" in str(error):  # a constructor that computes with the values of its weights
            return
        raise
    matched(sketch, weights)


def _assemble(kind: type[Kind], stored: StoredConfig, weights: dict[str, Tensor], backbone: nn.Module) -> Kind:
    own_size = stored.encoder_image_size
    encoder = PixelEncoder(
        backbone,
        source=stored.encoder,
        mean=stored.mean,
        std=stored.std,
        image_size=None if own_size is None else (own_size[0], own_size[1]),
        interpolation=stored.interpolation,
        channels=stored.channels,
    )
    choice = {"name": DEFAULT, **(stored.head or {"feature_dim": weights["head.0.weight"].shape[1]})}
    if len(choice) > MOST_SETTINGS or not all(isinstance(value, (bool, int, float, str)) for value in choice.values()):
        raise OutputError(f"The head is {str(choice)[:SHOWN]}.", expected="a name and settings that are single values")
    sizes = [weights[name].shape for name in weights if name.startswith("head.")]
    if not any(choice.get("feature_dim") in shape for shape in sizes):
        raise OutputError(
            f"The head of {choice.get('feature_dim')!r} features has no weight of that size.", expected="its weights"
        )
    head = build_head(classes=len(stored.class_names), **choice)
    height, width = stored.image_size
    return kind(encoder, head, class_names=stored.class_names, image_size=(height, width))
