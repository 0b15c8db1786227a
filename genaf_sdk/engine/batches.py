"""Global batches: the same images in the same order on any number of processes, and this process's rows of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from genaf_sdk.data.augmentation import augmented
from genaf_sdk.data.loading import loader_options
from genaf_sdk.engine.processes import ALONE, Processes
from genaf_sdk.engine.randomness import integers, permutation, random_key, uniform
from genaf_sdk.errors import ConfigError, TrainingError
from genaf_sdk.inputs.images import image_space

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genaf_sdk.data import LabeledImages
    from genaf_sdk.inputs.space import InputSpace


@dataclass(frozen=True)
class Batch:
    """This process's rows of a global batch, and the random numbers that belong to them.

    Args:
        inputs: (n, ...), valid ones: images (n, C, H, W) in [0, 1].
        labels: Classes (n,).
        rows: Which rows of the global batch these are, int64 (n,) on the CPU; adversaries want them ascending.
        total: Rows of the global batch.
        key: Of the step's random numbers.
        processes: Who has the other rows.
    """

    inputs: Tensor
    labels: Tensor
    rows: Tensor
    total: int
    key: int = 0
    processes: Processes = ALONE

    @property
    def space(self) -> InputSpace:
        """Of the inputs."""
        return image_space(self.inputs)

    @classmethod
    def whole(cls, inputs: Tensor, labels: Tensor, key: int = 0) -> Batch:
        """Return a global batch that this process has alone."""
        return cls(inputs, labels, torch.arange(len(inputs)), len(inputs), key)

    def mean(self, values: Tensor) -> Tensor:
        """Return this process's part of a mean over the global batch; values (n,).

        The parts of all processes average to that mean, as accelerate averages gradients over processes.
        """
        return values.sum() * (self.processes.count / self.total)

    def everyone(self, *columns: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the rows of all processes, and which of them are this batch's own.

        Args:
            *columns: This batch's rows, (n, ...) each; floating point, for gradients find their way back.

        Returns:
            The columns over the global batch, (N, ...) each, and the numbers (n,) of the own rows in them. Alone, the
            columns as they are.
        """
        device = columns[0].device
        if self.processes.count == 1:
            return columns, torch.arange(len(self.rows), device=device)
        flat = [column.flatten(1) if column.ndim > 1 else column[:, None] for column in columns]
        gathered = self.processes.all_gather_rows(torch.cat(flat, dim=1), self.rows, self.total)
        parts = gathered.split([column.shape[1] for column in flat], dim=1)
        whole = tuple(part.reshape(self.total, *column.shape[1:]) for part, column in zip(parts, columns, strict=True))
        return whole, self.rows.to(device)

    def uniform(self, purpose: str, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return uniform random numbers (n, *shape), one row an image, on the images' device."""
        return uniform(random_key(self.key, purpose), self.rows.to(self.inputs.device), shape, low, high)

    def integers(self, purpose: str, shape: tuple[int, ...], bound: int) -> Tensor:
        """Return random whole numbers (n, *shape) below ``bound``, one row an image, on the images' device."""
        return integers(random_key(self.key, purpose), self.rows.to(self.inputs.device), shape, bound)

    def split(self, pieces: int) -> list[Batch]:
        """Deal the rows out to pieces that still know their place in the global batch."""
        parts = [slice(first, None, pieces) for first in range(pieces)]
        return [
            replace(self, inputs=self.inputs[part], labels=self.labels[part], rows=self.rows[part].contiguous())
            for part in parts
        ]

    @staticmethod
    def joined(pieces: list[Batch]) -> Batch:
        """Return what ``split`` dealt out as one batch again, its rows in the order of the pieces."""
        inputs, labels, rows = (
            torch.cat([getattr(piece, name) for piece in pieces]) for name in ("inputs", "labels", "rows")
        )
        return replace(pieces[0], inputs=inputs, labels=labels, rows=rows)


class GlobalBatches:
    """The global batches of every epoch.

    An epoch shows every image once, in batches whose sizes differ by one at most: no short last batch, none dropped.

    Args:
        images: Training images.
        batch_size: Largest number of images in a global batch.
        key: Of the order.
        processes: This process takes every ``count``-th row, so that all have the same kinds of work.

    Raises:
        ConfigError: There are more processes than images in a batch.
    """

    def __init__(self, images: LabeledImages, batch_size: int, key: int, processes: Processes) -> None:
        self.images, self.key, self.processes = images, key, processes
        self._wanted: list[list[int]] = []
        self._loaders: dict[torch.device, DataLoader[Any]] = {}  # kept, so that its workers start once, not every epoch
        count = len(images)
        self.steps = max(1, min(math.ceil(count / batch_size), count // 2))  # no batch of one: losses need pairs
        if count // self.steps < processes.count:
            raise ConfigError(
                f"A batch has {count // self.steps} images for {processes.count} processes.",
                expected="at least one image a process in every batch",
                remedy="raise batch_size, or start fewer processes",
            )

    def batches(self, epoch: int, first: int, device: torch.device) -> Iterator[Batch]:
        """Yield the global batches of an epoch from number ``first`` on.

        Raises:
            TrainingError: A process that reads images died.
        """
        order = permutation(random_key(self.key, "order", epoch), len(self.images)).tensor_split(self.steps)[first:]
        shares = [torch.arange(self.processes.index, len(batch), self.processes.count) for batch in order]
        self._wanted[:] = [batch[share].tolist() for batch, share in zip(order, shares, strict=True)]
        if device not in self._loaders:
            self._loaders[device] = DataLoader(
                self.images,
                batch_sampler=self._wanted,
                collate_fn=_as_it_is,
                **loader_options(self.images, device, self.processes.neighbors),
                generator=torch.Generator(),  # of the workers' seeds, which nothing uses; the global one is left alone
            )
        loaded = iter(self._loaders[device])
        for number, (batch, share) in enumerate(zip(order, shares, strict=True), start=first):
            try:
                pixels, labels = next(loaded)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise TrainingError(
                    f"A data-loading worker died: {str(error).splitlines()[0]}",
                    remedy="free memory, then go on with resume=True",
                ) from error
            pixels = pixels.to(device, non_blocking=True)
            key = random_key(self.key, "step", epoch * self.steps + number)
            yield Batch(image_space(pixels).arranged(pixels), labels.to(device), share, len(batch), key, self.processes)


def _as_it_is(batch: Any) -> Any:
    return batch


def augmented_batch(batch: Batch, most: int, augmentation: str) -> Batch:
    """Return the batch with every image translated by up to ``most`` pixels, then augmented in a way of its own."""
    batch = translated(batch, most)
    if augmentation == "none":
        return batch
    seeds = batch.integers("augmentation", (), 2**24)
    return replace(batch, inputs=augmented(batch.inputs, augmentation, seeds))


def translated(batch: Batch, most: int) -> Batch:
    """Return the batch with every image translated by up to ``most`` pixels each way, its edges repeated."""
    if most == 0:
        return batch
    pixels = batch.inputs
    count, _, height, width = pixels.shape
    padded = F.pad(pixels, (most,) * 4, mode="replicate")
    offsets = batch.integers("shift", (2,), 2 * most + 1)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # one at every offset, of the same memory
    images = torch.arange(count, device=pixels.device)
    return replace(batch, inputs=windows[images, :, offsets[:, 0], offsets[:, 1]])
