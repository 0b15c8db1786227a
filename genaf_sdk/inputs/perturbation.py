"""What a universal attack leaves behind: one perturbation or patch that is put on every input."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genaf_sdk.errors import AttackError, OutputError
from genaf_sdk.files import replacing
from genaf_sdk.inputs.images import ImageSpace
from genaf_sdk.inputs.keys import PerturbationKey, key_from
from genaf_sdk.inputs.threat import Linf, Patch, Threat, threat_from

Details = dict[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Perturbation:
    """A universal perturbation, or a patch where there is a mask.

    Args:
        values: (C, H, W), float. What is added, in pixel units; for a patch, the pixels it shows, in [0, 1].
        threat: What it keeps to. A number is read as its size: of ``Patch`` where there is a mask, of ``Linf`` where
            there is none.
        mask: (1, H, W), 1 where a patch covers the image and 0 elsewhere; None for a perturbation.
        key: Who crafted it, on what. Attacks leave it to the template, evaluations complete it.
        details: Whatever the attack wants on record: settings, layer, seconds.
    """

    values: Tensor
    threat: Threat
    mask: Tensor | None = None
    key: PerturbationKey = field(default_factory=PerturbationKey)
    details: Details = field(default_factory=dict)

    def __post_init__(self) -> None:
        given: Any = self.threat
        if not isinstance(given, Threat):  # the budget alone: what attacks of other packages may hand over
            object.__setattr__(self, "threat", (Linf if self.mask is None else Patch)(given))

    @property
    def budget(self) -> float:
        """Size of the threat: the largest absolute value, or the share of the area that a patch may cover."""
        return self.threat.size

    @property
    def attack(self) -> str:
        """Name of the attack that crafted it."""
        return self.key.attack

    @property
    def seconds(self) -> float:
        """How long crafting took; 0 where that is not on record."""
        seconds = self.details.get("seconds")
        return float(seconds) if isinstance(seconds, (int, float)) else 0.0

    def apply(self, inputs: Tensor) -> Tensor:
        """Return ``clip(x + delta)``, or ``(1 - m) x + m p`` for a patch; inputs (N, C, H, W) in [0, 1].

        Raises:
            AttackError: The inputs have another shape than the perturbation was crafted for.
        """
        if inputs.shape[1:] != self.values.shape:
            raise AttackError(
                f"The perturbation {str(self.key)!r} is for images of shape {tuple(self.values.shape)}, "
                f"these have {tuple(inputs.shape[1:])}.",
                remedy="craft it anew at this image size",
            )
        mask = None if self.mask is None else self.mask.to(inputs)
        return self.threat.apply(ImageSpace(tuple(self.values.shape)), inputs, self.values.to(inputs), mask)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: ``values``, perhaps ``mask``, and the rest as metadata."""
        tensors = {"values": self.values.detach().float().cpu().contiguous()}
        if self.mask is not None:
            tensors["mask"] = self.mask.detach().float().cpu().contiguous()
        content = {"key": self.key.to_dict(), "threat": self.threat.to_dict(), "details": self.details}
        with replacing(Path(path)) as temporary:
            save_file(tensors, temporary, metadata={name: json.dumps(value) for name, value in content.items()})

    @classmethod
    def load(cls, path: str | Path) -> Perturbation:
        """Read what ``save`` wrote, and hold it to the threat that it states.

        Older files state an attack and a budget; one with a mask is a patch, and its name becomes the key's label.

        Raises:
            OutputError: The file is missing, damaged, holds no perturbation, or one that exceeds its threat.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in {"values", "mask"}.intersection(file.keys())}
                metadata = file.metadata() or {}
            values, mask = tensors["values"], tensors.get("mask")
            _check_tensors(values, mask)
            details = json.loads(metadata["details"])
            _check_details(details)
            if "threat" in metadata:
                threat, key = threat_from(json.loads(metadata["threat"])), key_from(json.loads(metadata["key"]))
            else:
                threat = (Linf if mask is None else Patch)(float(metadata["budget"]))
                key = PerturbationKey(attack=metadata.get("attack", ""), label=Path(path).stem)
            threat.check(values, mask)
        except (OSError, SafetensorError, KeyError, ValueError, RecursionError, AttackError) as error:
            reason = error.problem if isinstance(error, AttackError) else f"{error}."
            expected = error.expected if isinstance(error, AttackError) else "a file of Perturbation.save"
            raise OutputError(f"{path} holds no perturbation: {reason}", expected=expected) from error
        return cls(values, threat, mask, key, details)


def _check_tensors(values: Tensor, mask: Tensor | None) -> None:
    shapes = {"values": tuple(values.shape)} | ({} if mask is None else {"mask": tuple(mask.shape)})
    fits = values.ndim == 3 and values.numel() > 0 and (mask is None or mask.shape == (1, *values.shape[1:]))
    floats = all(tensor.dtype == torch.float32 for tensor in (values, mask) if tensor is not None)
    if not (fits and floats and bool(torch.isfinite(values).all())):
        raise AttackError(
            f"its tensors are {shapes}, of type {values.dtype}, or not finite.",
            expected="finite float32: values (C, H, W), and for a patch a mask (1, H, W)",
        )


def _check_details(details: Any) -> None:
    plain = (str, int, float, bool, type(None))
    if not isinstance(details, dict) or not all(isinstance(value, plain) for value in details.values()):
        raise AttackError(f"its details are {details!r:.200}.", expected="names with plain values")
