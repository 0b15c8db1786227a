"""DataSplits: train, validation and test images of one task, and how they are set aside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from genaf_sdk.data.classes import checked_names
from genaf_sdk.data.images import LabeledImages, generator_of
from genaf_sdk.errors import DataError
from genaf_sdk.inputs.images import ImageSpace

FINGERPRINT = 2  # changes with what the fingerprint covers

Groups = Sequence[Hashable]
"""One group an image: the video of a frame, the patient of a scan."""


@dataclass(frozen=True)
class DataSplits:
    """Train, validation and test images of one task.

    Args:
        train: What the model learns from.
        validation: What decides between models; never trained on.
        test: Touched once, for the report.
        class_names: One name a class, in the order of the labels; kept in Unicode's form NFC.
        name: What the report calls the data.
        notes: What was decided for the user, for the log and the report.
        interpolation: How images of another size were resized.
    """

    train: LabeledImages
    validation: LabeledImages
    test: LabeledImages
    class_names: tuple[str, ...]
    name: str = "data"
    notes: tuple[str, ...] = field(default=())
    interpolation: str = "bilinear"

    @property
    def space(self) -> ImageSpace:
        """What an image is: of the size of the first one."""
        return ImageSpace(self.image_shape)

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", checked_names(self.class_names, f"the data {self.name!r}"))
        count = len(self.class_names)
        if count < 2:
            raise DataError(
                f"The data {self.name!r} has one class alone: {self.class_names[0]!r}."
                if count
                else f"The data {self.name!r} has no class.",
                expected="at least two classes",
                remedy="a folder holds one folder for each class",
            )
        for name, split in self.splits().items():
            if len(split) == 0:
                raise DataError(f"The {name} split of {self.name!r} is empty.", expected="at least one image a class")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= count:
                raise DataError(
                    f"The {name} split of {self.name!r} has the label {low if low < 0 else high}.",
                    expected=f"labels from 0 to {count - 1}, as there are {count} classes",
                )
            missing = sorted(set(range(count)) - set(split.labels.tolist()))
            if missing:
                raise DataError(
                    f"The {name} split of {self.name!r} has no image of class {self.class_names[missing[0]]!r}.",
                    expected="every class in every split",
                    remedy="give more images of that class, or remove the class",
                )
        shapes = {name: tuple(split[0][0].shape) for name, split in self.splits().items() if not split.on_disk}
        if len(set(shapes.values())) > 1:
            raise DataError(
                f"The splits of {self.name!r} have images of shapes {shapes}.",
                expected="one shape (C, H, W)",
                remedy="load_data(..., image_size=(H, W)) brings all to one size",
            )

    def splits(self) -> dict[str, LabeledImages]:
        """Return the three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.train[0][0].shape
        return channels, height, width

    def class_counts(self) -> list[int]:
        """Return how many training images each class has."""
        counts: list[int] = torch.bincount(self.train.labels, minlength=len(self.class_names)).tolist()
        return counts

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, as hex, over every image and label of every split, the class names, image shape and interpolation.

        An image that comes from a file stands for itself with the file's bytes, any other with its pixels; so whether
        the images are kept in memory makes no difference. Equal data has the same fingerprint on every machine. It is
        computed once; images on disk are read for it, in little memory.
        """
        facts = [FINGERPRINT, list(self.class_names), list(self.image_shape), self.interpolation]
        digest = hashlib.sha256(json.dumps(facts).encode())
        for split in self.splits().values():
            digest.update(len(split).to_bytes(8) + np.ascontiguousarray(split.labels.numpy(), "<i8").tobytes())
            for image in split.digests():
                digest.update(image)
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return name, sizes, classes, notes and fingerprint."""
        return {
            "name": self.name,
            "sizes": {name: len(split) for name, split in self.splits().items()},
            "class_names": list(self.class_names),
            "class_counts": self.class_counts(),
            "image_shape": list(self.image_shape),
            "interpolation": self.interpolation,
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }


def stratified_split(
    images: LabeledImages,
    fraction: float,
    *,
    seed: int,
    groups: Groups | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[list[int], list[int]]:
    """Return the indices that stay and those set aside: ``fraction`` of every class (at least one image), by ``seed``.

    With groups, whole groups are set aside, with shares of the classes as near to ``fraction`` as they allow. Errors
    call a class by its name in ``class_names``, where there is one.

    Raises:
        DataError: A class or its groups are too few to be divided.
    """
    if groups is not None:
        return _set_groups_aside(images, fraction, seed, groups, class_names)
    kept: list[int] = []
    aside: list[int] = []
    generator = generator_of(seed)
    for label in images.labels.unique().tolist():
        members = torch.nonzero(images.labels == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            raise DataError(
                f"Class {_called(label, class_names)} has too few images: with {count} of {len(members)} set aside,"
                " none is left.",
                expected="an image of every class for training, validation and test each",
                remedy="give more images of that class, or remove the class",
            )
        aside += members[:count].tolist()
        kept += members[count:].tolist()
    return sorted(kept), sorted(aside)


def _called(label: int, class_names: Sequence[str] | None) -> str:
    return repr(class_names[label]) if class_names and label < len(class_names) else str(label)


def _set_groups_aside(
    images: LabeledImages, fraction: float, seed: int, groups: Groups, class_names: Sequence[str] | None
) -> tuple[list[int], list[int]]:
    from sklearn.model_selection import StratifiedGroupKFold

    labels = images.labels.numpy()
    names = np.unique([str(group) for group in groups], return_inverse=True)[1]
    counts = {label: len(np.unique(names[labels == label])) for label in np.unique(labels)}
    scarcest = min(counts, key=lambda label: counts[label])
    if counts[scarcest] < 2:
        raise DataError(
            f"All images of class {_called(int(scarcest), class_names)} are in one group.",
            expected="at least two groups a class for every split that is set aside",
            remedy="give more groups, or give the splits yourself",
        )
    folds = max(2, min(round(1 / fraction), counts[scarcest]))
    divide = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    candidates = [
        (kept, aside)
        for kept, aside in divide.split(np.zeros(len(labels)), labels, names)
        if set(labels[kept]) == set(labels[aside])
    ]
    if not candidates:
        raise DataError(
            f"No {fraction:.0%} of the groups hold every class.", expected="more groups a class, or a larger share"
        )
    kept, aside = min(candidates, key=lambda pair: abs(len(pair[1]) / len(labels) - fraction))
    return kept.tolist(), aside.tolist()


def require_apart(groups: Sequence[Groups]) -> None:
    """Check that no group is in two splits.

    Raises:
        DataError: One is; it is named.
    """
    seen: set[Hashable] = set()
    for part in groups:
        odd = next((group for group in part if not isinstance(group, Hashable)), None)
        if odd is not None:
            raise DataError(
                f"A group is the {type(odd).__name__} {str(odd)[:80]}.", expected="text or a number an image"
            )
        shared = seen & set(part)
        if shared:
            raise DataError(
                f"The group {min(map(str, shared))!r} and {len(shared) - 1} more are in two splits.",
                expected="every group in one split",
                remedy="give the images without splits, and let groups= divide them",
            )
        seen |= set(part)
