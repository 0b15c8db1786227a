"""load_data(): an id, a folder, arrays or torch datasets -> train, validation and test images in pixel space."""

from __future__ import annotations

import difflib
import logging
import os
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import Dataset

from genaf_sdk.data.alignment import aligned
from genaf_sdk.data.arrays import Arrays, is_pair, read_arrays
from genaf_sdk.data.classes import numbered
from genaf_sdk.data.decoding import Decoded, Target, changes, decode_parts, first_size
from genaf_sdk.data.folders import read_folder
from genaf_sdk.data.hub import is_rows, open_hub, open_rows
from genaf_sdk.data.images import LabeledImages
from genaf_sdk.data.inspection import darkness_notes, duplicate_notes, imbalance_note, oversampled
from genaf_sdk.data.pictures import PECULIARITIES, EncodedImages, ImageFiles, shown
from genaf_sdk.data.published import PUBLISHED, KnownData, data_root, open_published
from genaf_sdk.data.samples import Samples, joined, require_map_style
from genaf_sdk.data.splits import DataSplits, Groups, require_apart, stratified_split
from genaf_sdk.errors import DataError
from genaf_sdk.files import user_path

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DATA_IDS", "DataSplits", "KnownData", "LabeledImages", "aligned", "known_data", "load_data"]

logger = logging.getLogger(__name__)

DATA_IDS = ("digits", *PUBLISHED, "folder:PATH", "hub:ORG/NAME")
TEST_FRACTION = 0.25
NAMED = 10  # so many unreadable images are named; the others are counted


@dataclass(frozen=True)
class _Opened:
    """What was found before anything is decoded: one, two or three parts of (image, label) pairs."""

    name: str
    parts: tuple[Any, ...]
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    group_of: Callable[[Path], Hashable] | None = None


def load_data(
    dataset: str | Path | DataSplits | Dataset[Any] | Sequence[Any],
    *,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    validation_fraction: float = 0.15,
    seed: int = 0,
    interpolation: str = "bilinear",
    groups: Groups | Callable[[Path], Hashable] | None = None,
    balance: Literal["none", "repeat"] = "none",
    skip_corrupt: bool = False,
    root: str | Path | None = None,
    download: bool = False,
    leave_out: str | Path | None = None,
) -> DataSplits:
    """Return a task's images, decoded, resized and split; what was decided or looks wrong is said in ``notes``.

    What was left out or looks wrong is logged as a warning, too, so that it is seen before anything is trained.

    Args:
        dataset: An id (``known_data()`` lists them); a folder ``CLASS/IMAGE`` or ``train|val|test/CLASS/IMAGE``;
            ``hub:ORG/NAME``; arrays ``(pixels, labels)``; a torch dataset of (image, label) pairs or of dicts with such
            keys; a ``Dataset`` or ``DatasetDict`` of the library ``datasets``; a sequence of two (train, test) or three
            (train, validation, test) of these, whose labels are brought together by class name; or ``DataSplits``,
            returned as they are. What comes as one is split. Images are PIL images, or arrays or tensors, uint8 or
            float in [0, 1].
        image_size: (H, W) that every image is resized to (antialiased, aspect ratio not kept); None keeps the size of
            the first image.
        channels: 3 (gray images are repeated), 1, or as many as the images have.
        validation_fraction: Share of the training images set aside, stratified by class, where there is no such split.
        seed: Decides which.
        interpolation: How images are resized: nearest, bilinear or bicubic.
        groups: Images that belong together, such as frames of one video, stay in one split: one group an image, in the
            order of the images, training images first; or, for folders, a function from a file's path to its group.
            The frames of one sign in ``gtsrb`` are kept together anyhow.
        balance: ``repeat`` repeats training images of smaller classes, so that all classes are seen equally often.
        skip_corrupt: Leave out images that cannot be read, which is noted, rather than refuse the data.
        root: Where data sets with an id lie; by default the environment's GENAF_DATA_ROOT, else ~/.cache/genaf.
        download: Whether a data set that is missing there may be downloaded.
        leave_out: A folder that results go into; where it lies inside the data's and holds no pictures, it is no class.
            The data's own folder is refused.

    Raises:
        DataError: Unknown id, data that is not there, or images or labels that cannot be used; the message says which
            and why.
    """
    if balance not in ("none", "repeat"):
        raise DataError(f"balance is {balance!r}.", expected="'none' or 'repeat'")
    if isinstance(dataset, DataSplits):
        if balance != "none":
            raise DataError(
                f"balance is {balance!r}, and the data is split already.",
                remedy="give load_data(..., balance='repeat') what the splits were made from",
            )
        return dataset
    if not 0 < validation_fraction < 1:
        raise DataError(f"validation_fraction is {validation_fraction}.", expected="a share between 0 and 1")
    target = Target((1, 1) if image_size is None else image_size, channels, interpolation, "")
    opened = _open(dataset, root, download=download, leave_out=None if leave_out is None else Path(leave_out))
    size = first_size(opened.parts[0], channels, opened.name) if image_size is None else image_size
    target = replace(target, size=size, name=opened.name)
    doubts = [*opened.notes, *_random_note(opened, target)]
    decoded = decode_parts(opened.parts, target)
    doubts += [*_unreadable_note(decoded, opened, skip=skip_corrupt), *_peculiar_notes(decoded)]
    notes: list[str] = []
    grouped = _groups_of(opened.group_of if groups is None else groups, opened, decoded)
    if grouped is not None:
        require_apart(grouped)
    class_names = opened.class_names
    parts = [part.images for part in decoded]
    train, validation, test = _three(parts, grouped, validation_fraction, seed, notes, class_names)
    if class_names is None:
        class_names = numbered(int(train.labels.max()) + 1) if len(train) else ()
    data = DataSplits(train, validation, test, class_names, opened.name, interpolation=interpolation)
    doubts += [*duplicate_notes(data), *darkness_notes(data)]
    for doubt in doubts:
        logger.warning("%s: %s", opened.name, doubt)
    notes = [*doubts, *notes, *imbalance_note(data, evened=balance == "repeat")]
    return replace(data, train=oversampled(train) if balance == "repeat" else train, notes=tuple(notes))


def known_data() -> list[KnownData]:
    """Return every data set that has an id, and the spellings of the others, without asking the network."""
    digits = KnownData("digits", 10, (1_347, 450), "CC-BY-4.0", "https://archive.ics.uci.edu/dataset/80")
    return [digits, *PUBLISHED.values(), KnownData("folder:PATH"), KnownData("hub:ORG/NAME")]


def _open(dataset: Any, root: str | Path | None, *, download: bool, leave_out: Path | None) -> _Opened:
    if isinstance(dataset, (str, Path)):
        return _open_id(str(dataset), root, download=download, leave_out=leave_out)
    arrays = read_arrays(dataset)
    if arrays is not None:
        return _Opened("arrays", arrays, None)
    if is_rows(dataset):
        name = str(getattr(getattr(dataset, "info", None), "dataset_name", None) or "datasets")
        parts, names, notes = open_rows(dataset, repr(name))
        return _Opened(name, parts, names, tuple(notes))
    several = isinstance(dataset, (tuple, list))
    if not isinstance(dataset, Dataset) and not (several and len(dataset) in (2, 3)):
        raise DataError(
            f"The data set is a {type(dataset).__name__}{f' of {len(dataset)}' if several else ''}.",
            expected="a torch Dataset, a sequence of two or three, arrays (pixels, labels), an object of the library "
            f"datasets, DataSplits, or one of {', '.join(DATA_IDS)}",
        )
    return _open_datasets(list(dataset) if several else [dataset])


def _open_datasets(given: list[Any]) -> _Opened:
    """Open one, two or three data sets, and bring their labels to one numbering by class name."""
    what = {1: ("images",), 2: ("training", "test"), 3: ("training", "validation", "test")}[len(given)]
    titles = ["the data set"] if len(given) == 1 else [f"the {part} data set" for part in what]
    name = type(given[0]).__name__
    parts: list[Any] = []
    notes: list[str] = []
    for value, title in zip(given, titles, strict=True):
        if is_rows(value):
            opened, _, found = open_rows(value, title)
            if len(opened) != 1:
                raise DataError(f"{title} has splits of its own.", expected="one split for each part")
            parts += opened
            notes += found
        elif is_pair(value):
            parts.append(Arrays(*value))
        else:
            require_map_style(value, title)
            parts.append(value)
    parts, names, found = joined(parts, titles)
    ready = (Arrays, EncodedImages, LabeledImages, Samples)
    sources = [part if isinstance(part, ready) else Samples(part, name) for part in parts]
    return _Opened(name, tuple(sources), names, (*notes, *found))


def _open_id(spec: str, root: str | Path | None, *, download: bool, leave_out: Path | None) -> _Opened:
    if spec == "digits":
        return _Opened("digits", _digits(), tuple("0123456789"))
    if spec in PUBLISHED:
        parts, names, notes = open_published(PUBLISHED[spec], data_root(root), download=download)
        return _Opened(spec, parts, names, tuple(notes), PUBLISHED[spec].group_of)
    if spec.startswith("hub:"):
        parts, names, notes = open_hub(spec.removeprefix("hub:"), download=download)
        return _Opened(spec, parts, names, tuple(notes))
    path = user_path(spec.removeprefix("folder:"))
    if not spec or not path.is_dir():  # the path '' would be this folder, which nobody named
        near = [] if spec.startswith("folder:") else difflib.get_close_matches(spec, DATA_IDS, n=3)
        raise DataError(
            f"There is no data set and no folder {spec!r}.",
            expected=f"a folder, a torch Dataset or one of {', '.join(DATA_IDS)}",
            remedy=f"try {', '.join(near)}" if near else _remedy(path),
        )
    parts, names, notes = read_folder(path, leave_out)
    return _Opened(shown(path.resolve().name), parts, names, tuple(notes))


def _remedy(path: Path) -> str:
    """Return what to do about a path that is no folder."""
    if path.is_file():
        return "unpack it into a folder"
    parent = next((folder for folder in path.absolute().parents if folder.is_dir()), None)
    return "correct the path" + (f"; as far as {shown(parent)} it is there" if parent is not None else "")


def _digits() -> tuple[LabeledImages, LabeledImages]:
    """scikit-learn's digits: 1,797 scans of 8 x 8 pixels, 16 gray levels, from 13 writers; a quarter is for testing."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    pixels = torch.from_numpy(scans.images).float()[:, None] / 16
    images = LabeledImages.in_memory(pixels, torch.from_numpy(scans.target).long())
    kept, aside = stratified_split(images, TEST_FRACTION, seed=0)
    return images.subset(kept), images.subset(aside)


def _random_note(opened: _Opened, target: Target) -> list[str]:
    if not any(changes(part, target) for part in opened.parts):
        return []
    return [
        "an image read twice gives two different images, as with a random transform: training and test images are not "
        "augmented as they are read; use the setting method.schedule.augmentation instead"
    ]


def _peculiar_notes(decoded: Sequence[Decoded]) -> list[str]:
    counts = sum((part.peculiar for part in decoded), Counter())
    return [PECULIARITIES[key].format(count=count) for key, count in counts.items()]


def _unreadable_note(decoded: Sequence[Decoded], opened: _Opened, *, skip: bool) -> list[str]:
    reasons = [reason for part in decoded for reason in part.unreadable]
    if not reasons:
        return []
    listed = "; ".join(reasons[:NAMED]) + (f"; and {len(reasons) - NAMED} more" if len(reasons) > NAMED else "")
    total = len(reasons) + sum(len(part.kept) for part in decoded)
    if not skip:
        raise DataError(
            f"{len(reasons)} of {total} images of {opened.name!r} cannot be read: {listed}.",
            remedy="repair or remove them, or leave them out with skip_corrupt=True (--loading.skip-corrupt)",
        )
    files = [shown(path) for part in opened.parts if isinstance(part, ImageFiles) for path in part.paths]
    if files:  # where they lie on this machine is no concern of the report's readers
        listed = listed.replace(f"{os.path.commonpath(files)}{os.sep}", "")
    return [f"{len(reasons)} of {total} images cannot be read and were left out: {listed}"]


def _groups_of(
    groups: Groups | Callable[[Path], Hashable] | None, opened: _Opened, decoded: Sequence[Decoded]
) -> list[list[Hashable]] | None:
    """Return the group of every image that was kept, for each part."""
    if groups is None:
        return None
    sizes = [len(part) for part in opened.parts]
    if callable(groups):
        if not all(isinstance(part, ImageFiles) for part in opened.parts):
            raise DataError(
                "groups is a function, and the data is no folder.", expected="one group an image, in their order"
            )
        listed = [groups(path) for part in opened.parts for path in part.paths]
    else:
        listed = list(groups)
    if len(listed) != sum(sizes):
        raise DataError(f"There are {len(listed)} groups for {sum(sizes)} images.", expected="one group an image")
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [[listed[start + index] for index in part.kept] for start, part in zip(starts, decoded, strict=True)]


def _three(
    parts: list[LabeledImages],
    groups: list[list[Hashable]] | None,
    validation_fraction: float,
    seed: int,
    notes: list[str],
    names: tuple[str, ...] | None,
) -> list[LabeledImages]:
    """Return training, validation and test images; those that were not given are set aside from the first part."""
    how = "stratified by class" if groups is None else "in whole groups"
    own = None if groups is None else groups[0]
    if len(parts) == 1:
        kept, aside = stratified_split(parts[0], TEST_FRACTION, seed=0, groups=own, class_names=names)
        notes.append(f"no test split: {len(aside)} of {len(parts[0])} images, {how}, were set aside as one")
        parts = [parts[0].subset(kept), parts[0].subset(aside)]
        own = None if own is None else [own[index] for index in kept]
    if len(parts) == 2:
        kept, aside = stratified_split(parts[0], validation_fraction, seed=seed, groups=own, class_names=names)
        notes.append(f"no validation split: {len(aside)} training images, {how}, were set aside as one")
        parts = [parts[0].subset(kept), parts[0].subset(aside), parts[1]]
    return parts
