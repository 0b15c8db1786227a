"""What a universal attack leaves behind: one perturbation or patch that is put on every image."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genaf_sdk.errors import AttackError, OutputError
from genaf_sdk.files import replacing


@dataclass(frozen=True)
class Perturbation:
    """A universal perturbation, or a patch where there is a mask.

    Args:
        values: (C, H, W), float32. What is added, in pixel units; for a patch, the pixels it shows, in [0, 1].
        budget: Largest absolute value of a perturbation; for a patch, the share of the area it covers.
        mask: (1, H, W), 1 where a patch covers the image and 0 elsewhere; None for a perturbation.
        attack: Name of the attack that crafted it.
        details: Whatever the attack wants on record: settings, layer, seconds.
    """

    values: Tensor
    budget: float
    mask: Tensor | None = None
    attack: str = ""
    details: dict[str, str | int | float | bool | None] = field(default_factory=dict)

    def apply(self, pixels: Tensor) -> Tensor:
        """Return ``clip(x + delta, 0, 1)``, or ``(1 - m) x + m p`` for a patch; pixels (N, C, H, W) in [0, 1].

        Raises:
            AttackError: The images have another shape than the perturbation was crafted for.
        """
        if pixels.shape[1:] != self.values.shape:
            raise AttackError(
                f"The perturbation {self.attack!r} is for images of shape {tuple(self.values.shape)}, "
                f"these have {tuple(pixels.shape[1:])}.",
                remedy="craft it anew at this image size",
            )
        values = self.values.to(pixels)
        if self.mask is None:
            return (pixels + values).clamp(0, 1)
        mask = self.mask.to(pixels)
        return pixels * (1 - mask) + values * mask

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: ``values``, perhaps ``mask``, and the rest as metadata."""
        tensors = {"values": self.values.detach().cpu().contiguous()}
        if self.mask is not None:
            tensors["mask"] = self.mask.detach().cpu().contiguous()
        metadata = {"attack": self.attack, "budget": repr(self.budget), "details": json.dumps(self.details)}
        with replacing(Path(path)) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> Perturbation:
        """Read what ``save`` wrote.

        Raises:
            OutputError: The file is missing, damaged or holds no perturbation.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
                metadata = file.metadata() or {}
            values, mask = tensors["values"], tensors.get("mask")
            budget, details = float(metadata["budget"]), json.loads(metadata["details"])
        except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
            raise OutputError(
                f"{path} holds no perturbation: {error}.", expected="a file of Perturbation.save"
            ) from error
        fits = values.ndim == 3 and (mask is None or mask.shape == (1, *values.shape[1:]))
        if not fits or not torch.isfinite(values).all():
            raise OutputError(
                f"{path} holds no perturbation: shape {tuple(values.shape)} or NaN.", expected="(C, H, W)"
            )
        return cls(values, budget, mask, metadata.get("attack", ""), details)
