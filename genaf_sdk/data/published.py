"""Published data sets by name: torchvision's, and those that come as folders. Nothing is downloaded unasked."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genaf_sdk.data.folders import read_folder
from genaf_sdk.data.pictures import ImageFiles
from genaf_sdk.data.samples import Samples
from genaf_sdk.errors import DataError

ROOT = "GENAF_DATA_ROOT"


@dataclass(frozen=True)
class KnownData:
    """One line of ``genaf data``.

    Args:
        id: What ``load_data`` takes.
        classes: How many; 0 where it depends.
        sizes: Images of the training, validation and test split as published; one number is data without splits.
        license: As the publisher states it; empty where none is stated.
        url: Where it is described, or downloaded by hand.
        maker: Class of ``torchvision.datasets``; empty for folders and spellings.
        parts: Arguments of the class, for each split.
        folder: Folder under the root, for data that comes as one.
        names: Class names in place of the folders' or the data set's own.
        group_of: Which images belong together, from a file's path; None where any two are independent.
    """

    id: str
    classes: int = 0
    sizes: tuple[int, ...] = ()
    license: str = ""
    url: str = ""
    maker: str = ""
    parts: tuple[dict[str, Any], ...] = ()
    folder: str = ""
    names: dict[str, str] = field(default_factory=dict)
    group_of: Callable[[Path], str] | None = None


def _sign_of(path: Path) -> str:
    """Return which sign a GTSRB file shows: CLASS/SIGN_FRAME.ppm, about 30 frames each; test images are single ones."""
    return f"{path.parent.name}/{path.stem.partition('_')[0]}"


def _split(*names: str, **more: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"split": name, **more} for name in names)


_TRAIN = ({"train": True}, {"train": False})
_ANIMALS = {
    "cane": "dog", "cavallo": "horse", "elefante": "elephant", "farfalla": "butterfly", "gallina": "chicken",
    "gatto": "cat", "mucca": "cow", "pecora": "sheep", "ragno": "spider", "scoiattolo": "squirrel",
}  # fmt: skip
_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"

PUBLISHED = {
    entry.id: entry
    for entry in (
        KnownData("cifar10", 10, (50_000, 10_000), "", _CIFAR, "CIFAR10", _TRAIN),
        KnownData("cifar100", 100, (50_000, 10_000), "", _CIFAR, "CIFAR100", _TRAIN),
        KnownData("stl10", 10, (5_000, 8_000), "", "https://cs.stanford.edu/~acoates/stl10", "STL10",
                  _split("train", "test")),
        KnownData("svhn", 10, (73_257, 26_032), "non-commercial use", "http://ufldl.stanford.edu/housenumbers", "SVHN",
                  _split("train", "test")),
        KnownData("gtsrb", 43, (26_640, 12_630), "", "https://benchmark.ini.rub.de", "GTSRB", _split("train", "test"),
                  group_of=_sign_of),
        KnownData("mnist", 10, (60_000, 10_000), "", "http://yann.lecun.com/exdb/mnist", "MNIST", _TRAIN),
        KnownData("fashion-mnist", 10, (60_000, 10_000), "MIT", "https://github.com/zalandoresearch/fashion-mnist",
                  "FashionMNIST", _TRAIN),
        KnownData("kmnist", 10, (60_000, 10_000), "CC-BY-SA-4.0", "https://codh.rois.ac.jp/kmnist", "KMNIST", _TRAIN),
        KnownData("emnist", 47, (112_800, 18_800), "", "https://www.nist.gov/itl/products-and-services/emnist-dataset",
                  "EMNIST", tuple({"split": "balanced", **part} for part in _TRAIN)),
        KnownData("usps", 10, (7_291, 2_007), "", "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets", "USPS",
                  _TRAIN),
        KnownData("flowers102", 102, (1_020, 1_020, 6_149), "", f"{_OXFORD}/flowers/102", "Flowers102",
                  _split("train", "val", "test")),
        KnownData("fgvc-aircraft", 100, (3_334, 3_333, 3_333), "non-commercial research", f"{_OXFORD}/fgvc-aircraft",
                  "FGVCAircraft", _split("train", "val", "test")),
        KnownData("food101", 101, (75_750, 25_250), "", "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
                  "Food101", _split("train", "test")),
        KnownData("oxford-pets", 37, (3_680, 3_669), "CC-BY-SA-4.0", f"{_OXFORD}/pets", "OxfordIIITPet",
                  _split("trainval", "test")),
        KnownData("dtd", 47, (1_880, 1_880, 1_880), "research", f"{_OXFORD}/dtd", "DTD",
                  _split("train", "val", "test")),
        KnownData("eurosat", 10, (27_000,), "MIT", "https://github.com/phelber/eurosat", "EuroSAT", ({},)),
        KnownData("imagenette", 10, (9_469, 3_925), "Apache-2.0", "https://github.com/fastai/imagenette", "Imagenette",
                  _split("train", "val", size="320px")),
        KnownData("country211", 211, (31_650, 10_550, 21_100), "", "https://github.com/openai/CLIP/blob/main/data",
                  "Country211", _split("train", "valid", "test")),
        KnownData("caltech101", 101, (8_677,), "CC-BY-4.0", "https://data.caltech.edu/records/mzrjq-6wc02",
                  "Caltech101", ({},)),
        KnownData("caltech256", 257, (30_607,), "CC-BY-4.0", "https://data.caltech.edu/records/nyy15-4j048",
                  "Caltech256", ({},)),
        KnownData("sun397", 397, (108_754,), "", "https://vision.princeton.edu/projects/2010/SUN", "SUN397", ({},)),
        KnownData("imagenet", 1000, (1_281_167, 50_000), "non-commercial research",
                  "https://image-net.org/download.php", folder="imagenet"),
        KnownData("imagenet-100", 100, (126_689, 5_000), "non-commercial research",
                  "https://image-net.org/download.php", folder="imagenet-100"),
        KnownData("animals-10", 10, (26_179,), "GPL-2.0", "https://www.kaggle.com/datasets/alessiocorrado99/animals10",
                  folder="animals-10", names=_ANIMALS),
    )
}  # fmt: skip


def data_root(root: str | Path | None) -> Path:
    """Return where data sets lie: the argument, else the environment's GENAF_DATA_ROOT, else ~/.cache/genaf."""
    return Path(root or os.environ.get(ROOT) or "~/.cache/genaf").expanduser()


def open_published(known: KnownData, root: Path, *, download: bool) -> tuple[tuple[Any, ...], Any, list[str]]:
    """Return the parts, class names (None where the data has none) and notes of a published data set.

    Raises:
        DataError: It is not under ``root``; the error says what to fetch and where to put it.
    """
    return _open_folder(known, root) if known.folder else _open_torchvision(known, root, download=download)


def _open_torchvision(known: KnownData, root: Path, *, download: bool) -> tuple[tuple[Any, ...], Any, list[str]]:
    from torchvision import datasets

    if download:
        root.mkdir(parents=True, exist_ok=True)
    try:
        made = [getattr(datasets, known.maker)(root, **part, download=download) for part in known.parts]
    except (RuntimeError, OSError, ImportError) as error:
        raise DataError(
            f"The data set {known.id!r} cannot be had: {error}",
            expected=f"its files under {root}, as torchvision's {known.maker} lays them out",
            remedy=f"load_data({known.id!r}, download=True) on a machine with network, then copy {root} here "
            f"(or set {ROOT}, or pass root=); it is described at {known.url}",
        ) from error
    # Imagenette gives a tuple of names for each class, the usual one first.
    names = getattr(made[0], "classes", None) or getattr(made[0], "categories", None)
    return (
        tuple(_as_files(part, known.id) for part in made),
        None if names is None else tuple(str(name[0] if isinstance(name, tuple) else name) for name in names),
        [],
    )


def _as_files(dataset: Any, name: str) -> Any:
    """Return torchvision's list of files as one of ours, which is read in parallel and names what cannot be read."""
    samples = getattr(dataset, "samples", None) or getattr(dataset, "_samples", None)
    files = getattr(dataset, "_image_files", None) or getattr(dataset, "_images", None)
    labels = getattr(dataset, "_labels", None)
    if not isinstance(samples, list) and isinstance(files, list) and isinstance(labels, list):
        samples = list(zip(files, labels, strict=True))
    if not isinstance(samples, list):
        return Samples(dataset, name)
    return ImageFiles([Path(path) for path, _ in samples], [int(label) for _, label in samples])


def _open_folder(known: KnownData, root: Path) -> tuple[tuple[Any, ...], Any, list[str]]:
    folder = root / known.folder
    if not folder.is_dir():
        layout = "train/CLASS/IMAGE and val/CLASS/IMAGE" if len(known.sizes) > 1 else "CLASS/IMAGE"
        raise DataError(
            f"The data set {known.id!r} is not under {root}.",
            expected=f"the folder {folder} with {layout}",
            remedy=f"download it from {known.url} (its terms have to be accepted there), unpack it to {folder}, "
            f"or set {ROOT}, or pass root=",
        )
    parts, names, notes = read_folder(folder)
    return parts, tuple(known.names.get(name, name) for name in names), notes
