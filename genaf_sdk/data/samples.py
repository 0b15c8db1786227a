"""Data sets of torch as data: what an item is, what its label means, and what its classes are called."""

from __future__ import annotations

import copy
import math
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from genaf_sdk.data.classes import checked_names, label_map, names_by_label
from genaf_sdk.data.pictures import EncodedImages
from genaf_sdk.errors import DataError, GenafError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

IMAGE_KEYS = ("image", "img", "pixel_values", "picture")
LABEL_KEYS = ("label", "labels", "target", "targets")
CHECKED = 16  # labels that a data set lists are compared with those of so many of its items
LARGEST_LABEL = 10**6
PAIRS = "a data set of (image, label) pairs, or of dicts with the keys 'image' and 'label'"


class Samples(Dataset[tuple[Any, Any]]):
    """Any map-style data set, whose items are pairs (image, label) or dicts with one image and one label.

    Args:
        dataset: The data set; its ``target_transform`` counts, as its items count.
        name: For errors.
        classes: The classes' names, where they are known apart from the data set.
    """

    def __init__(self, dataset: Any, name: str, classes: tuple[str, ...] | None = None) -> None:
        self.dataset, self.name, self.classes = dataset, name, classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        try:
            item = self.dataset[index]
        except (GenafError, OSError, MemoryError):  # an OSError is one image that cannot be read
            raise
        except Exception as error:
            raise DataError(
                f"Item {index} of {self.name!r} cannot be read: {type(error).__name__}: {error}",
                expected=PAIRS,
                remedy=f"try dataset[{index}] by itself: the fault is in the data set or its transform",
            ) from error
        if isinstance(item, dict):
            return self._only(item, IMAGE_KEYS, index), self._only(item, LABEL_KEYS, index)
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            many = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
            raise DataError(
                f"Item {index} of {self.name!r} is a {type(item).__name__}{many}.",
                expected=PAIRS,
                remedy="wrap it in a data set whose __getitem__ returns the image and the label alone",
            )
        return item[0], item[1]

    def _only(self, item: dict[Any, Any], keys: Sequence[str], index: int) -> Any:
        found = [key for key in keys if key in item]
        if len(found) != 1:
            raise DataError(
                f"Item {index} of {self.name!r} is a dict with the keys {', '.join(map(repr, item))}.",
                expected=f"exactly one of the keys {', '.join(map(repr, keys))}",
                remedy="wrap it in a data set whose __getitem__ returns (image, label)",
            )
        return item[found[0]]

    def known_labels(self) -> list[Any]:
        """Return all labels; without reading the images where the data set lists labels that agree with its items."""
        listed = _listed_labels(self.dataset)
        count = len(self)
        if listed is not None and len(listed) == count:
            some = _spread(count)
            items = as_labels([self[index][1] for index in some], self.name)
            if items.tolist() == as_labels([listed[index] for index in some], self.name).tolist():
                return listed
        return [self[index][1] for index in range(count)]


class _Relabelled(Dataset[tuple[Any, Any]]):
    """A data set with its labels mapped."""

    def __init__(self, dataset: Any, mapping: list[int], name: str) -> None:
        self.dataset, self.mapping, self.name = Samples(dataset, name), mapping, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.dataset[index]
        return image, self.mapped([label])[0]

    def mapped(self, labels: Iterable[Any]) -> list[int]:
        numbers = as_labels(labels, self.name).tolist()
        too_large = max(numbers, default=0)
        if too_large >= len(self.mapping):
            raise DataError(
                f"{self.name!r} has the label {too_large} and names for {len(self.mapping)} classes.",
                expected=f"labels from 0 to {len(self.mapping) - 1}",
            )
        return [self.mapping[number] for number in numbers]


def require_map_style(dataset: Any, name: str) -> None:
    """Check that a data set has a length and can be read by index.

    Raises:
        DataError: It cannot, such as an ``IterableDataset``.
    """
    streams = isinstance(dataset, IterableDataset) or not hasattr(type(dataset), "__getitem__")
    if streams or not hasattr(type(dataset), "__len__") or isinstance(dataset, (str, bytes, dict, Tensor)):
        raise DataError(
            f"{name} is a {type(dataset).__name__}, which has no length or cannot be read by index.",
            expected=PAIRS,
            remedy="collect its items first: split into training and test images, each is read many times"
            if streams
            else "give a torch Dataset with __len__ and __getitem__",
        )


def joined(datasets: Sequence[Any], what: Sequence[str]) -> tuple[list[Any], tuple[str, ...] | None, list[str]]:
    """Bring data sets with the same classes to one numbering, that of the first that names its classes.

    Args:
        datasets: Map-style data sets.
        what: What each is, for errors and notes.

    Returns:
        The data sets, with labels mapped where their order of classes is another; the class names, or None where none
        has any; and notes.

    Raises:
        DataError: Their classes differ.
    """
    named = [with_names(dataset, name) for dataset, name in zip(datasets, what, strict=True)]
    first = next((place for place, (_, names, _) in enumerate(named) if names is not None), None)
    notes = [note for _, _, found in named for note in found]
    if first is None:
        return [dataset for dataset, _, _ in named], None, notes
    wanted = named[first][1] or ()
    found = []
    for (dataset, names, _), name in zip(named, what, strict=True):
        mapping, note = label_map(names, wanted, given=name, expected=what[first])
        found.append(_mapped(dataset, mapping, name))
        notes += [note] if note else []
    return found, wanted, notes


def _mapped(dataset: Any, mapping: list[int] | None, name: str) -> Any:
    if mapping is None or mapping == list(range(len(mapping))):
        return dataset
    relabelled = _Relabelled(dataset, mapping, name)
    if isinstance(dataset, EncodedImages):
        dataset = copy.copy(dataset)
        dataset.labels = relabelled.mapped(dataset.labels)
        return dataset
    return relabelled


def with_names(dataset: Any, name: str) -> tuple[Any, tuple[str, ...] | None, list[str]]:
    """Return a data set, its class names (None where it has none) and notes.

    Names are found through ``Subset``, ``random_split``, ``ConcatDataset`` and wrappers whose ``dataset`` has the same
    labels. The parts of a ``ConcatDataset`` are joined by class name.

    Raises:
        DataError: Names that cannot be used, or parts of which only some name their classes.
    """
    kind = type(dataset)
    if kind is Subset:
        inner, names, notes = with_names(dataset.dataset, name)
        return (dataset if inner is dataset.dataset else Subset(inner, dataset.indices)), names, notes
    if kind is ConcatDataset:
        return _concatenated(dataset, name)
    names, notes = _own_names(dataset, name)
    wrapped = getattr(dataset, "dataset", None)
    if isinstance(dataset, Subset):
        wrapped = Subset(dataset.dataset, dataset.indices)
    if names is None and not notes and isinstance(wrapped, Dataset):
        inner, names, notes = with_names(wrapped, name)
        if names is not None and not _same_labels(dataset, wrapped, name):
            return dataset, None, [f"{name} renumbers the classes of what it wraps: they are called 0, 1, ..."]
        if inner is not wrapped:
            raise DataError(
                f"The data set {name} is a {kind.__name__} around parts that number their classes differently.",
                expected="parts with the same order of classes",
                remedy="give the parts as ConcatDataset or Subset, without a wrapper of your own",
            )
    return dataset, names, notes


def _same_labels(dataset: Any, wrapped: Any, name: str) -> bool:
    """Whether a wrapper leaves labels as they are, as far as some of its items show."""
    if len(dataset) != len(wrapped):
        return False
    first, second = (
        as_labels([Samples(source, name)[index][1] for index in _spread(len(wrapped))], name)
        for source in (dataset, wrapped)
    )
    return torch.equal(first, second)


def _spread(count: int) -> list[int]:
    return sorted({round(place * (count - 1) / (CHECKED - 1)) for place in range(CHECKED)}) if count else []


def _concatenated(dataset: ConcatDataset[Any], name: str) -> tuple[Any, tuple[str, ...] | None, list[str]]:
    parts = [with_names(part, f"part {place} of {name}") for place, part in enumerate(dataset.datasets)]
    notes = [note for _, _, found in parts for note in found]
    if all(names is None for _, names, _ in parts):
        return dataset, None, notes
    if any(names is None for _, names, _ in parts):
        raise DataError(
            f"Some parts of {name} name their classes and others do not, so that the same label may mean two classes.",
            expected="class names in every part, or in none",
            remedy="give the parts without names an attribute `classes`",
        )
    union = tuple(dict.fromkeys(chain.from_iterable(names or () for _, names, _ in parts)))
    found = []
    for place, (part, names, _) in enumerate(parts):
        mapping = [union.index(given) for given in names or ()]
        found.append(_mapped(part, mapping, f"part {place} of {name}"))
    changed = any(new is not old for new, old in zip(found, dataset.datasets, strict=True))
    return ConcatDataset(found) if changed else dataset, union, notes


def _own_names(dataset: Any, name: str) -> tuple[tuple[str, ...] | None, list[str]]:
    """Return the names that a data set itself carries, in the order of the labels that its items have."""
    names: tuple[str, ...] | None = None
    for given in (getattr(dataset, "class_to_idx", None), getattr(dataset, "classes", None)):
        if isinstance(given, dict) and given:
            names = names_by_label(given, name)
            if names is None:
                return None, [f"several class names of {name} share a label, so that the classes are called 0, 1, ..."]
        elif isinstance(given, (list, tuple, np.ndarray)) and len(given):
            names = checked_names(list(given), name)
        if names is not None:
            break
    transform = getattr(dataset, "target_transform", None)
    if names is None or transform is None:
        return names, []
    try:  # the names are those of the labels before the transform
        labels = [int(transform(label)) for label in range(len(names))]
    except Exception:  # it is the user's, and made for whatever the labels are
        labels = []
    if sorted(labels) != list(range(len(names))):
        return None, [
            f"{name} has a target_transform that its class names do not fit: the classes are called 0, 1, ..."
        ]
    return tuple(names[labels.index(label)] for label in range(len(names))), []


def _listed_labels(dataset: Any) -> list[Any] | None:
    """Return the labels of all items as a data set lists them, without reading an image; None if it does not."""
    if type(dataset) is Subset:
        inner = _listed_labels(dataset.dataset)
        return None if inner is None else [inner[index] for index in dataset.indices]
    if type(dataset) is ConcatDataset:
        parts = [_listed_labels(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else list(chain.from_iterable(part or [] for part in parts))
    if isinstance(dataset, Samples):
        return _listed_labels(dataset.dataset)
    if isinstance(dataset, _Relabelled):
        inner = _listed_labels(dataset.dataset)
        return None if inner is None else dataset.mapped(inner)
    listed = next(
        (v for key in ("labels", "targets", "_labels") if (v := getattr(dataset, key, None)) is not None), None
    )
    if listed is None or not hasattr(listed, "__len__"):
        return None
    transform = getattr(dataset, "target_transform", None)
    return list(listed) if transform is None else [transform(label) for label in listed]


def as_labels(labels: Iterable[Any], name: str) -> Tensor:
    """Return labels as int64 (N,).

    Raises:
        DataError: A label is no whole number from 0 to ``LARGEST_LABEL``.
    """
    return torch.tensor([_as_label(label, index, name) for index, label in enumerate(labels)], dtype=torch.long)


def _as_label(label: Any, index: int, name: str) -> int:
    value, remedy = label, ""
    if hasattr(label, "item") and hasattr(label, "shape"):
        count = math.prod(label.shape)
        value = label.item() if count == 1 else label
        if count > 1:
            value, remedy = f"of shape {tuple(label.shape)}", "of one-hot labels take label.argmax()"
    if isinstance(value, str) and not remedy:
        value, remedy = repr(value), "number the classes from 0, and give their names as `classes` of the data set"
    whole = (
        not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value) and value == int(value)
    )
    if whole and 0 <= value < LARGEST_LABEL:
        return int(value)
    if whole:
        remedy = "leave out images without a label (often -1)" if value < 0 else "number the classes from 0"
    raise DataError(
        f"The label of image {index} of {name!r} is {value}.",
        expected="one whole number from 0 an image",
        remedy=remedy,
    )
