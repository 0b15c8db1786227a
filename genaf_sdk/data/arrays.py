"""Arrays as data: ``(pixels, labels)``, or two or three such pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from genaf_sdk.errors import DataError


class Arrays(Dataset[tuple[Tensor, Any]]):
    """Pixels (N, C, H, W), (N, H, W, C) or (N, H, W), uint8 or floats in [0, 1], and labels (N,)."""

    def __init__(self, pixels: Any, labels: Any) -> None:
        try:
            self.pixels, self.labels = torch.as_tensor(_plain(pixels)), _plain(labels)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"The arrays cannot be read: {error}.", expected="arrays of numbers, of which all images have one shape"
            ) from error
        if self.pixels.ndim not in (3, 4) or self.labels.shape != (len(self.pixels),):
            raise DataError(
                f"The arrays have shapes {tuple(self.pixels.shape)} and {self.labels.shape}.",
                expected="pixels (N, C, H, W), (N, H, W, C) or (N, H, W), and labels (N,)",
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.pixels[index].numpy(), self.labels[index]


def _plain(values: Any) -> np.ndarray[Any, Any]:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def read_arrays(data: Any) -> tuple[Arrays, ...] | None:
    """Return the parts where ``data`` is a pair of arrays or a sequence of two or three pairs; else None."""
    if not isinstance(data, (tuple, list)):
        return None
    pairs = [data] if is_pair(data) else list(data)
    if len(pairs) > 3 or not pairs or not all(is_pair(pair) for pair in pairs):
        return None
    return tuple(Arrays(pixels, labels) for pixels, labels in pairs)


def is_pair(value: Any) -> bool:
    """Whether a value is (pixels, labels)."""
    return isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], (np.ndarray, Tensor))
