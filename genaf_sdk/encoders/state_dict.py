"""Reading weights that a user downloaded: safetensors, or pickles of which nothing is executed."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.modules import COMPILED

if TYPE_CHECKING:
    from pathlib import Path

# Training settings that Lightning keeps beside the weights. AttributeDict is a dict, and is read as one, so that
# Lightning itself is not needed. Nothing here runs code of the checkpoint's choosing.
HARMLESS: list[Any] = [
    argparse.Namespace,
    (dict, "pytorch_lightning.utilities.parsing.AttributeDict"),
    (dict, "lightning.pytorch.utilities.parsing.AttributeDict"),
    (dict, "lightning_fabric.utilities.data.AttributeDict"),
    (dict, "lightning.fabric.utilities.data.AttributeDict"),
]
NESTED = ("state_dict", "model_state_dict", "model", "teacher")
"""Under which key training scripts keep the weights."""
COUNTER = "num_batches_tracked"
"""The counter of a batch normalization, which weights of torch before 0.4.1 and of other tools do not have."""
DAMAGED = (OSError, RuntimeError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError)
"""What torch raises for files that are no checkpoint, beside the errors of its formats."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a .safetensors, .ckpt, .pth, .pt or .bin file holds; of a pickle, only tensors and plain containers.

    Raises:
        EncoderError: The file is missing or damaged, or its pickle asks for anything else; nothing of it was executed.
    """
    if not path.is_file():
        raise EncoderError(f"There is no checkpoint {str(path)!r}.", expected="the path of a file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251  # never runs code
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"The checkpoint {str(path)!r} holds more than weights, and was refused before any of it ran: "
            f"{_reason(error)}.",
            expected="a checkpoint of tensors, numbers, texts, lists and dicts",
            remedy="where it was made, save the model's weights alone: "
            "safetensors.torch.save_file(model.state_dict(), 'encoder.safetensors')",
        ) from error
    except (*DAMAGED, SafetensorError, zipfile.BadZipFile) as error:
        raise EncoderError(
            f"The checkpoint {str(path)!r} cannot be read: {_reason(error)}.", remedy="download it again"
        ) from error
    if isinstance(content, torch.nn.Module) or not isinstance(content, dict):
        raise EncoderError(
            f"The checkpoint {str(path)!r} holds a {type(content).__name__}.", expected="a dict of weights"
        )
    return content


def weights_of(checkpoint: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors by name, found at the top or under one of ``NESTED``.

    The prefixes of parallel runs ("module.") and what ``torch.compile`` puts into names ("_orig_mod.") are removed.

    Raises:
        EncoderError: There are none.
    """
    for key in NESTED:
        inner = checkpoint.get(key)
        if isinstance(inner, dict) and any(isinstance(value, Tensor) for value in inner.values()):
            checkpoint = inner
            break
    weights = {str(key): value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    if not weights:
        raise EncoderError(
            f"The checkpoint {str(path)!r} holds no weights; its keys are {', '.join(map(str, list(checkpoint)[:8]))}.",
            expected=f"tensors by name, at the top or under one of {', '.join(NESTED)}",
        )
    weights = {name.replace(COMPILED, ""): value for name, value in weights.items()}
    while all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def strip_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose name starts with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _reason(error: Exception) -> str:
    """Return the sentence of torch's long message that names the culprit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (named or lines or [type(error).__name__])[0][:300].rstrip(".")
