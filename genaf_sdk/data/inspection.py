"""What is often wrong with data and easily overlooked: one image in two splits, and classes of unequal size."""

from __future__ import annotations

import hashlib
from itertools import combinations
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.data.images import LabelledImages
    from genaf_sdk.data.splits import DataSplits

NOTED_RATIO = 1.5  # largest class to smallest


def duplicate_notes(data: DataSplits) -> list[str]:
    """Return a sentence for every two splits that share images, pixel for pixel at the size they are used at."""
    splits = data.splits()
    if any(split.on_disk for split in splits.values()):
        return ["duplicates across splits were not looked for, as the images are read from disk when they are needed"]
    hashes = {name: _hashes(split) for name, split in splits.items()}
    notes = []
    for first, second in combinations(splits, 2):
        known = set(hashes[first])
        count = sum(value in known for value in hashes[second])
        if count:
            notes.append(f"duplicates: {count} of {len(hashes[second])} {second} images are also {first} images")
    return notes


def imbalance_note(data: DataSplits) -> list[str]:
    """Return a sentence where the largest class has more than ``NOTED_RATIO`` times the images of the smallest."""
    counts = data.class_counts()
    largest, smallest = max(counts), min(counts)
    if largest <= NOTED_RATIO * smallest:
        return []
    many, few = (data.class_names[counts.index(count)] for count in (largest, smallest))
    use = "class weights even it out in the loss" if data.class_weights else "balance='weights' evens it out"
    return [
        f"class imbalance: {many!r} has {largest} training images, {few!r} {smallest} ({largest / smallest:.1f} to 1); "
        f"{use}"
    ]


def weights_of_classes(labels: Tensor, classes: int) -> tuple[float, ...]:
    """Return N / (K n_k) for each class k: every class weighs the same in total, an image 1 on average."""
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    weights: list[float] = (len(labels) / (classes * counts.double())).tolist()
    return tuple(weights)


def _hashes(images: LabelledImages) -> list[bytes]:
    return [
        hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()
        for batch in images.raw_batches()
        for image in batch.contiguous()
    ]
