"""What is often wrong with data and easily overlooked: one image in two splits, and classes of unequal size."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch

from genaf_sdk.data.images import as_pixels, file_digests

if TYPE_CHECKING:
    from genaf_sdk.data.images import LabeledImages
    from genaf_sdk.data.splits import DataSplits

NOTED_RATIO = 1.5  # largest class to smallest
SEEN, DARK = 64, 2 / 255
MOST_REPEATS = 10


def duplicate_notes(data: DataSplits) -> list[str]:
    """Return a sentence for every two splits that share images.

    Images in memory are compared pixel for pixel at the size they are used at, files by their bytes.
    """
    splits = data.splits()
    identities = {name: split.reader.identities(range(len(split))) for name, split in splits.items()}
    notes: list[str] = []
    unknown: list[str] = []
    for first, second in combinations(splits, 2):
        if splits[first].on_disk != splits[second].on_disk:  # pixels and files: all are compared as files
            count = _count(*(file_digests(splits[name].reader, range(len(splits[name]))) for name in (first, second)))
        else:
            count = _count(identities[first], identities[second])
            if count and splits[first].on_disk:
                count = _count(*_suspects(splits, identities, first, second))
        if count is None:
            unknown.append(f"{first} and {second}")
        elif count:
            notes.append(f"duplicates: {count} of {len(splits[second])} {second} images are also {first} images")
    if unknown:
        notes.append(
            f"duplicates across splits ({', '.join(unknown)}) were not looked for, as the images are decoded when they "
            "are needed"
        )
    return notes


def _suspects(
    splits: dict[str, LabeledImages], identities: dict[str, list[bytes] | None], *names: str
) -> list[list[bytes] | None]:
    """Return the SHA-256 of those files of two splits whose identities agree: these are of a part of a file."""
    both = set.intersection(*(set(identities[name] or ()) for name in names))
    places = {name: [at for at, each in enumerate(identities[name] or ()) if each in both] for name in names}
    return [file_digests(splits[name].reader, places[name]) for name in names]


def _count(first: list[bytes] | None, second: list[bytes] | None) -> int | None:
    if first is None or second is None:
        return None
    seen = set(first)
    return sum(each in seen for each in second)


def darkness_notes(data: DataSplits) -> list[str]:
    """Return a sentence where the first images of a split in memory hold hardly more than one gray level of 256."""
    notes = []
    for name, split in data.splits().items():
        if split.on_disk:
            continue
        highest = float(as_pixels(split.reader(range(min(SEEN, len(split)))).max()))
        if highest < DARK:
            notes.append(
                f"the first {min(SEEN, len(split))} {name} images reach {highest:.4f} at most, of 1: perhaps they were "
                "divided by 255 twice, or are masks"
            )
    return notes


def imbalance_note(data: DataSplits, *, evened: bool) -> list[str]:
    """Return a sentence where the largest class has more than ``NOTED_RATIO`` times the images of the smallest."""
    counts = data.class_counts()
    largest, smallest = max(counts), min(counts)
    if largest <= NOTED_RATIO * smallest:
        return []
    many, few = (data.class_names[counts.index(count)] for count in (largest, smallest))
    use = (
        f"those of smaller classes are repeated, up to {MOST_REPEATS} times" if evened else "balance='repeat' evens it"
    )
    return [
        f"class imbalance: {many!r} has {largest} training images, {few!r} {smallest} ({largest / smallest:.1f} to 1); "
        f"{use}"
    ]


def oversampled(images: LabeledImages) -> LabeledImages:
    """Repeat the images of smaller classes until each is as large as the largest, or ``MOST_REPEATS`` times as it was.

    Whatever is trained on them, by whichever method and loss, sees the classes equally often.
    """
    counts = torch.bincount(images.labels)
    indices: list[int] = []
    for label in counts.nonzero().flatten().tolist():
        members = torch.nonzero(images.labels == label).flatten()
        wanted = min(int(counts.max()), MOST_REPEATS * len(members))
        indices += members.repeat(-(-wanted // len(members)))[:wanted].tolist()
    return images.subset(indices)
