"""Answers with a proof against one patch, in numpy: double masking (Xiang et al., PatchCleanser, USENIX Security 2022).

What is proven of an image x: if x is some photograph with one patch put on it, the answer for that photograph is the
same. Not that it is right. The same answers and certificates as ``genaf certify`` counts, from the same file.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]

UNDECIDED = -1
"""What stands for a class where none leads."""
LEAD = 1e-5
"""By which share of the largest logit a class has to lead to be certified: batches of another size round otherwise."""


@dataclass(frozen=True)
class Masks:
    """Rectangles on an image; every patch of up to ``patch`` rows and columns lies inside at least one of them.

    Args:
        image: Height and width, in pixels.
        patch: Rows and columns.
        table: True where a mask hides a pixel, bool (M, H, W).
    """

    image: tuple[int, int]
    patch: tuple[int, int]
    table: Array

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def for_area(cls, image: tuple[int, int], area: float, count: int) -> Masks:
        """Return up to ``count`` x ``count`` masks for squares of at least ``area``, and the rectangles nearest to it.

        Raises:
            SettingsError: The area is no share, or less than a pixel; or there is no mask.
        """
        if not 0 < area <= 1:
            raise SettingsError(
                f"A patch is to cover {area:g} of an image.",
                expected="a share of its area above 0 and at most 1, such as 0.03 for 3 %",
            )
        pixels = math.floor(area * image[0] * image[1] + 1e-9)
        if pixels < 1 or count < 1:
            raise SettingsError(
                f"{count} masks an axis are to hide a patch over {area:.3g} of {image[0]} x {image[1]} pixels.",
                expected="at least one mask, and a patch of at least a pixel",
            )
        columns = min(pixels // min(math.isqrt(pixels), image[0]), image[1])
        rows = min(pixels // columns, image[0])
        side = max(math.ceil(math.sqrt(area * image[0] * image[1]) - 1e-9), rows, columns)
        patch = (min(side, image[0]), min(side, image[1]))
        axes = [_covering(length, part, count) for length, part in zip(image, patch, strict=True)]
        table = [down[:, None] & across[None, :] for down, across in itertools.product(*axes)]
        return cls(image, patch, np.stack(table))


def _covering(length: int, patch: int, count: int) -> list[Array]:
    """Return up to ``count`` intervals, bool (length,), so that every window of ``patch`` pixels lies inside one."""
    stride = math.ceil((length - patch + 1) / count)
    side = min(patch + stride - 1, length)
    place = np.arange(length)
    return [(place >= start) & (place < start + side) for start in [*range(0, length - side, stride), length - side]]


class DoubleMasking:
    """Answers and certificates of a classifier.

    Args:
        run: Pixels in the graph's own layout to logits (N, K).
        masks: On the images of the graph.
        fill: What masked pixels become, of the shape and type of one of the graph's pixels, as it broadcasts over an
            image. A constant: anything computed from the image would let the patch speak.
        channels_last: Whether images are (H, W, C) rather than (C, H, W).
        max_batch: Most images of one run.
    """

    def __init__(
        self, run: Callable[[Array], Array], masks: Masks, fill: Array, *, channels_last: bool, max_batch: int
    ) -> None:
        self._run, self._fill, self._max_batch = run, fill, max_batch
        self._hidden = masks.table[..., None] if channels_last else masks.table[:, None]
        self.masks = masks
        count = len(masks)
        self._singles = np.repeat(np.arange(count)[:, None], 2, axis=1)
        self._pairs = np.array(list(itertools.combinations(range(count), 2)), int).reshape(-1, 2)

    def __call__(self, pixels: Array) -> Array:
        """Return class and certificate of each image, int64 (N, 2): -1 where no class leads; 1 where it is certified.

        M passes an image where a mask disagrees with another, and M more for each that does not agree with the most;
        up to M (M + 1) / 2 where all agree.
        """
        count = len(self._singles)
        logits = self._logits(pixels, np.arange(len(pixels)).repeat(count), np.tile(self._singles, (len(pixels), 1)))
        ones, sure = (leading_class(logits, lead).reshape(-1, count) for lead in (0.0, LEAD))
        votes = (ones[:, :, None] == ones[:, None, :]).sum(axis=2)
        answers = ones[np.arange(len(ones)), votes.argmax(axis=1)]
        for image, mask in np.argwhere((ones != answers[:, None]) & (ones != UNDECIDED)):
            second = np.stack([np.full(count, mask), np.arange(count)], axis=1)
            twos = leading_class(self._logits(pixels, np.full(count, image), second))
            if (twos == ones[image, mask]).all():
                answers[image] = ones[image, mask]
        certified = (answers != UNDECIDED) & (sure == answers[:, None]).all(axis=1)
        self._try_pairs(pixels, answers, certified)
        return np.stack([answers, certified.astype(np.int64)], axis=1)

    def _try_pairs(self, pixels: Array, answers: Array, certified: Array) -> None:
        """Take the certificate from every image whose prediction changes under a pair of masks; then it is done."""
        done = 0
        while done < len(self._pairs) and certified.any():
            alive = np.flatnonzero(certified)
            block = self._pairs[done : done + max(1, self._max_batch // len(alive))]
            logits = self._logits(pixels, alive.repeat(len(block)), np.tile(block, (len(alive), 1)))
            found = leading_class(logits, LEAD).reshape(len(alive), -1)
            certified[alive] = (found == answers[alive, None]).all(axis=1)
            done += len(block)

    def _logits(self, pixels: Array, rows: Array, pairs: Array) -> Array:
        """Return the logits (T, K) of images ``rows`` (T,), each under its pair of masks (T, 2)."""
        parts = []
        for start in range(0, len(rows), self._max_batch):
            some, both = rows[start : start + self._max_batch], pairs[start : start + self._max_batch]
            hidden = self._hidden[both[:, 0]] | self._hidden[both[:, 1]]
            parts.append(self._run(np.where(hidden, self._fill, pixels[some])))
        return np.concatenate(parts)


def leading_class(logits: Array, lead: float = 0.0) -> Array:
    """Return the class whose logit (N, K) leads by more than a share of the largest, int64 (N,).

    -1 for ties, NaN and infinity.
    """
    classes = logits.argmax(axis=1)
    second, best = np.partition(logits, -2, axis=1)[:, -2:].T
    with np.errstate(invalid="ignore"):
        leads = best - second > lead * np.abs(logits).max(axis=1)
    return np.where(np.isfinite(logits).all(axis=1) & leads, classes, UNDECIDED)
