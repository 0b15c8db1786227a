"""Whether any patch could change the answer to one picture: double masking with numpy and onnxruntime.

Source: PatchCleanser (Xiang et al., USENIX Security 2022): where the model gives one class under every pair of masks,
the defended answer is that class, and no patch that fits under a mask can change it. `genaf certify` counts how often.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

REPORT_FILE = "report.json"
LEAD = 1e-5
"""By which share of the largest logit a class has to lead: batches of another size round otherwise."""


@dataclass(frozen=True)
class Certificate:
    """What the report proves with one set of masks, and the masks, to try it on another picture.

    Args:
        patch: Most rows and columns of a patch.
        image: Rows and columns of the images.
        masks_per_axis: At most so many masks an axis.
        fill: What masked pixels become, one number in [0, 1] a channel.
        certified: On how many of the ``n`` test images no patch changes the right answer.
        n: How many were tried.
    """

    patch: tuple[int, int]
    image: tuple[int, int]
    masks_per_axis: int
    fill: tuple[float, ...]
    certified: int
    n: int

    @property
    def runs(self) -> int:
        """How many masked images the model has to see, at most."""
        count = len(self.masks())
        return count * (count + 1) // 2

    def masks(self) -> Array:
        """Return where each mask hides a pixel, bool (M, 1, H, W); every patch lies inside one of them."""
        (rows, tops), (columns, lefts) = (
            _places(*axis, self.masks_per_axis) for axis in zip(self.image, self.patch, strict=True)
        )
        hidden = np.zeros((len(tops) * len(lefts), 1, *self.image), bool)
        for index, (top, left) in enumerate((top, left) for top in tops for left in lefts):
            hidden[index, :, top : top + rows, left : left + columns] = True
        return hidden

    def holds(self, logits: Callable[[Array], Array], pixels: Array, batch: int) -> int | None:
        """Return the class that no patch can change, or None: the model then gives several classes under the masks.

        Args:
            logits: Pixels float32 (N, C, H, W) to logits (N, K).
            pixels: One image, float32 (C, H, W) in [0, 1].
            batch: How many masked images are put in at once.
        """
        answer = None
        for hidden in self._pairs(batch):
            masked = np.where(hidden, np.asarray(self.fill, np.float32)[:, None, None], pixels[None])
            for found in _leading(logits(masked)):
                if found is None or answer not in (None, found):
                    return None
                answer = found
        return answer

    def _pairs(self, batch: int) -> Iterator[Array]:
        """Yield what pairs of masks hide, those of a mask with itself first, bool (N, 1, H, W) of N up to ``batch``."""
        masks = self.masks()
        pairs = sorted(combinations_with_replacement(range(len(masks)), 2), key=lambda pair: pair[0] != pair[1])
        for at in range(0, len(pairs), batch):
            first, second = np.array(pairs[at : at + batch]).T
            yield masks[first] | masks[second]


def read_certificate(folder: Path) -> Certificate | None:
    """Return the certificate in a bundle's report, or None where there is no report or no certificate in it.

    Raises:
        BundleError: The report cannot be read.
    """
    path = folder / REPORT_FILE
    if not path.is_file():
        return None
    try:
        section = json.loads(path.read_text("utf-8")).get("certificate")
        if section is None:
            return None
        (tall, wide), (height, width) = section["patch"], section["image"]
        return Certificate(
            (int(tall), int(wide)), (int(height), int(width)), int(section["masks_per_axis"]),
            tuple(map(float, section["fill"])), int(section["certified"]), int(section["n"]),
        )  # fmt: skip
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}.", remedy="download the bundle again") from error


def _places(length: int, patch: int, count: int) -> tuple[int, list[int]]:
    """Return the side of a mask and where masks begin along one axis (section 3.2), as `genaf certify` has them."""
    stride = math.ceil((length - patch + 1) / count)
    side = min(patch + stride - 1, length)
    return side, [*range(0, length - side, stride), length - side]


def _leading(logits: Array) -> Iterator[int | None]:
    """Yield the class that leads for each row of logits (N, K); None for ties, NaN and infinity."""
    for row in logits:
        best, second = np.sort(row)[:-3:-1]
        leads = bool(np.isfinite(row).all()) and best - second > LEAD * np.abs(row).max()
        yield int(row.argmax()) if leads else None
