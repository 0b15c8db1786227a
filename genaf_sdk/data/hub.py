"""Data of the library ``datasets``: ``hub:ORG/NAME[:CONFIGURATION]``, or its objects as they are; an optional extra."""

from __future__ import annotations

import importlib
import io
import sys
from typing import TYPE_CHECKING, Any

from genaf_sdk.data.classes import checked_names
from genaf_sdk.data.folders import by_split
from genaf_sdk.data.pictures import EncodedImages
from genaf_sdk.data.samples import Samples
from genaf_sdk.errors import DataError

if TYPE_CHECKING:
    from io import BufferedReader, BytesIO
    from types import ModuleType

UNLABELED = (-1, None)
Opened = tuple[tuple[Any, ...], "tuple[str, ...] | None", list[str]]


class HubImages(EncodedImages):
    """One split of such a data set: encoded images, which are decoded here, as those of files are.

    Args:
        rows: A ``datasets.Dataset`` whose image column is not decoded.
        image: The column of images.
        labels: The class of each.
        title: What errors call the data.
        classes: The classes' names, or None where the labels carry none.
    """

    def __init__(
        self, rows: Any, image: str, labels: list[Any], title: str, classes: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(labels)
        self.rows, self.image, self.title, self.classes = rows, image, title, classes

    def open(self, index: int) -> BufferedReader | BytesIO:
        """Open the bytes in the table, or the file that the table names.

        Raises:
            OSError: The table names none, or one that cannot be opened.
        """
        stored = self.rows[index][self.image] or {}
        if stored.get("bytes") is not None:
            return io.BytesIO(stored["bytes"])
        if not stored.get("path"):
            raise FileNotFoundError(f"the row has no {self.image}")
        return open(stored["path"], "rb")  # noqa: PTH123  # the caller closes it; a Path would change an address

    def name(self, index: int) -> str:
        """Return the data set's name and the row."""
        return f"row {index} of {self.title}"


def open_hub(spec: str, *, download: bool) -> Opened:
    """Return the parts, class names and notes of a Hub data set.

    Raises:
        DataError: The library is missing, the data is not there, or no single image and label column is found.
    """
    library = _datasets(spec)
    name, _, configuration = spec.partition(":")
    try:
        loaded = library.load_dataset(
            name,
            configuration or None,
            download_config=library.DownloadConfig(local_files_only=not download),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The data set 'hub:{spec}' is not available locally and could not be downloaded: {error}",
            expected="hub:ORG/NAME of a data set that is in the cache, or that may be downloaded",
            remedy=f"load_data('hub:{spec}', download=True), or `hf download {name} --repo-type dataset` on a machine "
            "with network and a copy of its ~/.cache/huggingface; hub:ORG/NAME:CONFIGURATION names a configuration",
        ) from error
    return open_rows(loaded, f"'hub:{spec}'")


def is_rows(value: Any) -> bool:
    """Whether a value is an object of the library ``datasets``, which is not imported for it."""
    library = sys.modules.get("datasets")
    kinds = [
        getattr(library, kind, None) for kind in ("Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict")
    ]
    return any(isinstance(kind, type) and isinstance(value, kind) for kind in kinds)


def open_rows(value: Any, title: str) -> Opened:
    """Return the parts, class names (None where the labels are plain numbers) and notes of a library's object.

    Args:
        value: ``datasets.Dataset``, all images of a task or one part; or ``DatasetDict``, with a split for training.
        title: What errors and notes call it.

    Raises:
        DataError: It is a stream, has no split for training, or no single image and label column is found.
    """
    if type(value).__name__.startswith("Iterable"):
        raise DataError(
            f"{title} is a stream.",
            expected="rows that can be read by index",
            remedy="load it without streaming=True, or datasets.Dataset.from_list(list(stream))",
        )
    if not hasattr(value, "keys"):
        part, names = _part(value, title)
        return (part,), names, []
    chosen = by_split(value, title)
    if "train" not in chosen:
        raise DataError(f"{title} has the splits {', '.join(value)}.", expected="a split named 'train'")
    parts, notes = {}, []
    names = None
    for split, key in chosen.items():
        part, found = _part(value[key], f"{title}, split {key!r}")
        if set(part.known_labels() if isinstance(part, Samples) else part.labels) <= set(UNLABELED):
            notes.append(f"the split {key!r} is unlabeled: its {len(part)} images were left out")
            continue
        if split == "train":
            names = found
        elif found != names:
            raise DataError(f"The splits of {title} name the classes {names} and {found}.", expected="the same classes")
        parts[split] = part
    if list(parts) == ["train", "validation"]:
        notes.append("no test split: the validation split serves as one, and is used for nothing else")
    return tuple(parts.values()), names, notes


def _part(rows: Any, title: str) -> tuple[HubImages | Samples, tuple[str, ...] | None]:
    library = sys.modules["datasets"]
    image, label = _columns(rows.features, library, title)
    kind = rows.features[label]
    names = checked_names(kind.names, title) if isinstance(kind, library.ClassLabel) else None
    if rows.format["type"] is not None:  # a format or transform of the user's own decides what an item is
        return Samples(rows, title, names), names
    encoded = rows.cast_column(image, library.Image(decode=False))
    return HubImages(encoded, image, list(rows[label]), title, names), names


def _datasets(spec: str) -> ModuleType:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"'hub:{spec}' needs the library datasets, which is not installed.",
            remedy="pip install 'genaf-sdk[datasets]'",
        ) from error


def _columns(features: Any, library: ModuleType, title: str) -> tuple[str, str]:
    images = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, library.ClassLabel)]
    labels = labels or [
        name
        for name, kind in features.items()
        if name in ("label", "labels", "target") and str(getattr(kind, "dtype", "")).startswith(("int", "uint"))
    ]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f"{title} has the image columns {images} and the class columns {labels} among {list(features)}.",
            expected="one column of images and one of class labels",
            remedy="choose with rows.select_columns([IMAGE, LABEL]); make class labels of a column of text with "
            "rows.class_encode_column(LABEL)",
        )
    return images[0], labels[0]
