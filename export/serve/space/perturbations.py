"""The perturbations that a bundle keeps, put on pixels by numpy alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ..errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

FOLDER = "perturbations"


@dataclass(frozen=True)
class Perturbation:
    """One saved perturbation or patch.

    Args:
        title: Who crafted it, and how large it is.
        values: What is added, or the pixels that a patch shows; float32 (C, H, W).
        mask: 1 where a patch lies, 0 elsewhere, float32 (1, H, W); None for a perturbation.
    """

    title: str
    values: Array
    mask: Array | None

    def apply(self, pixels: Array) -> Array:
        """Return ``clip(x + delta)``, or ``(1 - m) x + m p`` for a patch; pixels float32 (N, C, H, W) in [0, 1]."""
        moved = pixels + self.values if self.mask is None else pixels * (1 - self.mask) + self.values * self.mask
        clipped: Array = np.clip(moved, 0, 1)
        return clipped


def read_perturbations(folder: Path, image_shape: tuple[int, int, int]) -> list[Perturbation]:
    """Return all perturbations of a bundle, by the names of their files.

    Args:
        folder: Of the bundle.
        image_shape: (C, H, W) of the model's images.

    Raises:
        BundleError: A file cannot be read, or is for images of another shape.
    """
    return [_read(path, image_shape) for path in sorted((folder / FOLDER).glob("*.safetensors"))]


def _read(path: Path, image_shape: tuple[int, int, int]) -> Perturbation:
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
            metadata = file.metadata() or {}
        key, threat = json.loads(metadata.get("key", "{}")), json.loads(metadata.get("threat", "{}"))
        values, mask = tensors["values"], tensors.get("mask")
        fits = values.shape == image_shape and (mask is None or mask.shape == (1, *image_shape[1:]))
        title = _title(key, threat) or path.stem
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} holds no perturbation: {error}.", remedy="download the bundle again") from error
    if not fits:
        raise BundleError(
            f"{path} is for images of shape {values.shape}.", expected=f"{image_shape}, as the model's images"
        )
    return Perturbation(title, values, mask)


def _title(key: dict[str, Any], threat: dict[str, Any]) -> str:
    """Return who crafted it and how large it is: `uapgd, adaptive on hardened, 10/255`."""
    if "knowledge" not in key:
        return ""
    attack, knowledge = str(key.get("attack", "")), str(key["knowledge"])
    on = " ".join(filter(None, (str(key.get("model", "")), str(key.get("images", "")))))
    size = float(threat["size"])
    parts = [
        attack,
        "" if knowledge == attack else f"{knowledge} on {on}" if on else knowledge,
        f"patch of {size:.1%} of the area" if threat.get("kind") == "patch" else f"{size * 255:.3g}/255",
        f"run {key['run']}" if key.get("run", 1) > 1 else "",
    ]
    return ", ".join(filter(None, parts))
