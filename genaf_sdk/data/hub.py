"""``hub:ORG/NAME[:CONFIGURATION]``: data sets of the Hugging Face Hub; an optional extra."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from genaf_sdk.errors import DataError

if TYPE_CHECKING:
    from types import ModuleType

SPLITS = (("train",), ("validation", "valid", "val"), ("test",))


class HubImages(Dataset[tuple[Any, int]]):
    """One split of a Hub data set as (image, label) pairs; images are decoded when they are asked for."""

    def __init__(self, rows: Any, image: str, label: str) -> None:
        self.rows, self.image = rows, image
        self.labels = rows[label][:]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.rows[index][self.image], self.labels[index]


def open_hub(spec: str, *, download: bool) -> tuple[tuple[HubImages, ...], tuple[str, ...], list[str]]:
    """Return the parts, class names and notes of a Hub data set.

    Raises:
        DataError: The library is missing, the data cannot be had, or no single image and label column is found.
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
            f"The data set 'hub:{spec}' cannot be had: {error}",
            expected="hub:ORG/NAME of a data set that is in the cache, or that may be downloaded",
            remedy=f"load_data('hub:{spec}', download=True), or `hf download {name} --repo-type dataset` on a machine "
            "with network and a copy of its ~/.cache/huggingface; hub:ORG/NAME:CONFIGURATION names a configuration",
        ) from error
    found = [next((loaded[key] for key in names if key in loaded), None) for names in SPLITS]
    notes = []
    if found[0] is None:
        raise DataError(f"'hub:{spec}' has the splits {', '.join(loaded)}.", expected="a split named 'train'")
    if found[1] is not None and found[2] is None:
        found = [found[0], None, found[1]]
        notes.append("no test split: the validation split serves as one, and is used for nothing else")
    rows = [part for part in found if part is not None]
    image, label = _columns(rows[0].features, library, spec)
    names = tuple(str(value) for value in rows[0].features[label].names)
    return tuple(HubImages(part, image, label) for part in rows), names, notes


def _datasets(spec: str) -> ModuleType:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"'hub:{spec}' needs the library datasets, which is not installed.",
            remedy="pip install 'genaf-sdk[datasets]'",
        ) from error


def _columns(features: Any, library: ModuleType, spec: str) -> tuple[str, str]:
    images = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, library.ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f"'hub:{spec}' has the image columns {images} and the class columns {labels} among {list(features)}.",
            expected="one column of images and one of class labels",
            remedy="load it with datasets.load_dataset and pass (image, label) pairs as a torch Dataset",
        )
    return images[0], labels[0]
