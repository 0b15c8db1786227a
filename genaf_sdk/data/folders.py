"""Folders of pictures: ``CLASS/IMAGE``, or such folders for training, validation and test."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from genaf_sdk.data.classes import checked_names, require_same_names
from genaf_sdk.data.pictures import SUFFIXES, ImageFiles, shown
from genaf_sdk.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

SPLIT_WORDS = {
    "train": {"train", "training", "trainset", "trainval"},
    "validation": {"val", "valid", "validation", "valset"},
    "test": {"test", "testing", "testset"},
}
PLAIN = set().union(*SPLIT_WORDS.values())
# What file managers, notebooks, archives and network drives leave beside pictures; hidden folders are left out, too.
VENDOR_FOLDERS = {
    *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "__pycache__"),
    *("system volume information", "lost+found"),
}
OUTPUT_FILES = ("model.safetensors", "report.json", "metrics.jsonl", "checksums.json", "comparison.jsonl", "run.json")


def split_of(name: str) -> str | None:
    """Return which split a folder's name stands for, in any case and usual spelling: ``Training``, ``seg_train``."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    found = [split for split, known in SPLIT_WORDS.items() if known & words]
    return found[0] if len(found) == 1 else None


def by_split(names: Iterable[str], where: str) -> dict[str, str]:
    """Return split -> name for those names that stand for a split; a plain spelling goes before one with additions.

    Raises:
        DataError: Two names may stand for the same split.
    """
    found = {}
    listed = list(names)
    for split, words in SPLIT_WORDS.items():
        candidates = [name for name in listed if split_of(name) == split]
        chosen = [name for name in candidates if name.lower() in words] or candidates
        if len(chosen) > 1:
            raise DataError(
                f"{where} has {' and '.join(map(repr, sorted(chosen)))}, and each may be the {split} split.",
                expected=f"one folder or split for {split}",
                remedy="rename or move the others away",
            )
        if chosen:
            found[split] = chosen[0]
    return found


@dataclass
class _Survey:
    """What was met in a folder and left out: counted, so that it can be told.

    Args:
        root: Names in notes are relative to it.
        own: The identity of a folder that results go into; it is left out unless it holds pictures.
    """

    root: Path
    own: tuple[int, int] | None = None
    other_files: Counter[str] = field(default_factory=Counter)
    dangling: list[Path] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)
    loose: list[Path] = field(default_factory=list)
    vendor: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)

    def entries(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the subfolders and the pictures of a folder, links followed; all else is counted.

        Raises:
            DataError: The folder cannot be read.
        """
        folders: list[Path] = []
        pictures: list[Path] = []
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"The folder {shown(folder)} cannot be read: {error.strerror or error}.", remedy="check its permissions"
            ) from error
        for entry in entries:
            path = folder / entry.name
            kind = _kind(entry)
            if kind == "nothing":
                self.dangling.append(path)
            elif entry.name.startswith(".") or (kind == "folder" and entry.name.lower() in VENDOR_FOLDERS):
                if kind == "folder" and _holds_pictures(path):
                    self.vendor.append(path)
            elif kind == "folder":
                is_own = self.own is not None and _identity(path) == self.own
                (self.outputs if _is_output(path, is_own=is_own) else folders).append(path)
            elif kind == "file" and path.suffix.lower() in SUFFIXES:
                pictures.append(path)
            else:
                self.other_files[path.suffix.lower() or "without suffix"] += 1
        return folders, pictures

    def pictures(self, folder: Path) -> list[Path]:
        """Return all pictures under a folder; linked folders are followed, but not back to a folder above."""
        found = []
        waiting = [(folder, frozenset(map(_identity, (folder, self.root, *self.root.absolute().parents))))]
        while waiting:
            place, above = waiting.pop()
            folders, pictures = self.entries(place)
            found += pictures
            for path in folders:
                identity = _identity(path)
                if identity in above:
                    self.loops.append(path)
                else:
                    waiting.append((path, above | {identity}))
        return found

    def notes(self) -> list[str]:
        """Return a sentence for everything that was left out."""
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in self.other_files.most_common())
        found = [f"files that are no images by their names were left out: {kinds}"] if kinds else []
        for what, paths in (
            ("links to nothing were left out", self.dangling),
            ("linked folders that lead back to a folder above were left out", self.loops),
            ("images outside the class folders were left out", self.loose),
            ("folders of other programs that hold images were left out", self.vendor),
            ("folders that runs of this package write into were left out", self.outputs),
        ):
            if paths:
                found.append(f"{what}: {len(paths)}, the first is {self.name(paths[0])}")
        return found

    def name(self, path: Path) -> str:
        return shown(path.relative_to(self.root))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _kind(entry: os.DirEntry[str]) -> str:
    """Return what an entry leads to: "folder", "file", "nothing" (a dangling link) or "other"."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself
        return "nothing"
    return "nothing" if entry.is_symlink() else "other"


def _holds_pictures(folder: Path) -> bool:
    return any(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def _is_output(folder: Path, *, is_own: bool) -> bool:
    """Whether a run of this package writes into the folder: this one, or its files are there; and no pictures."""
    try:
        written = is_own or any(
            (place / name).is_file() for place in (folder, folder / "checkpoints") for name in OUTPUT_FILES
        )
        return written and not any(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir())
    except OSError:  # it will be met again when it is read
        return False


def read_folder(
    folder: Path, leave_out: Path | None = None
) -> tuple[tuple[ImageFiles, ...], tuple[str, ...], list[str]]:
    """Read ``CLASS/IMAGE``, or ``train|val|test/CLASS/IMAGE`` with split folders in any usual spelling.

    Links to files and folders are followed. Hidden folders, those of other programs and those that runs of this package
    wrote are left out. Class names are normalized to Unicode's form NFC.

    Args:
        folder: The folder.
        leave_out: Where results will go; where it lies inside and holds no pictures, it is no class.

    Returns:
        The parts (all images; training and test; or training, validation and test), class names, and notes on
        everything that was left out.

    Raises:
        DataError: No training folder beside others, no classes, a class without images, or classes that differ; or
            results would go into the folder itself.
    """
    survey = _Survey(folder, _identity(leave_out) if leave_out is not None and leave_out.exists() else None)
    if survey.own == _identity(folder):
        raise DataError(
            f"The results would go into {shown(folder)}, the folder of the data.",
            expected="an output folder of its own",
            remedy="choose another output_dir (--output-dir)",
        )
    splits, notes = _split_folders(folder, survey)
    classes = {split: _classes(path, survey) for split, path in splits.items()}
    names = list(classes["train"])
    for split, path in list(splits.items())[1:]:
        others = list(classes[split])
        if len(others) == 1 and others[0] not in names and len(names) > 1:
            # Some loaders need one folder around images of unknown class, such as test/unknown.
            notes.append(_unlabeled(path, survey, survey.pictures(classes[split][others[0]])))
            del splits[split]
        else:
            require_same_names(others, names, shown(path), shown(splits["train"]))
    if list(splits) == ["train"]:
        notes += _perhaps_splits(classes["train"], survey)
    if list(splits) == ["train", "validation"]:
        notes.append("no test folder: the validation folder serves as one, and is used for nothing else")
    parts = tuple(_files(path, classes[split], names, survey) for split, path in splits.items())
    return parts, tuple(names), [*notes, *survey.notes()]


def _split_folders(folder: Path, survey: _Survey) -> tuple[dict[str, Path], list[str]]:
    """Return split -> folder, of which each has class folders; {"train": folder} where the data has no splits."""
    looked_at = _Survey(folder, survey.own)  # what is met on the way is counted when the folders are read
    below = {path.name: path for path in looked_at.entries(folder)[0]}
    split, flat = {}, {}  # folders named like splits: those with class folders, and those with images
    for name in filter(split_of, below):
        path = _unnested(below[name])
        folders, pictures = looked_at.entries(path)
        if len(folders) > len(pictures):  # some pictures may have strayed
            split[name] = path
        elif pictures:
            flat[name] = pictures
    chosen = {key: split[name] for key, name in by_split(split, f"The folder {shown(folder)}").items()}
    unlabeled = [pictures for name, pictures in flat.items() if split_of(name) != "train"]
    beside = [path for path in below.values() if path.name not in flat and _unnested(path) not in chosen.values()]
    if "train" not in chosen:
        if not below or any(name not in split and name.lower() not in PLAIN for name in below):
            return {"train": folder}, []  # classes, some perhaps with such names: trains beside buses
        raise DataError(
            f"{shown(folder)} has {', '.join(map(repr, sorted(below)))}, and no training images in class folders.",
            expected="train/CLASS/IMAGE, test/CLASS/IMAGE and perhaps val/CLASS/IMAGE",
            remedy="move the images into one folder for each class",
        )
    if len(chosen) == 1 and not unlabeled:
        if any(looked_at.entries(path)[1] for path in beside):
            return {"train": folder}, []
        raise DataError(
            f"{shown(folder)} has a folder {chosen['train'].name!r} but none for testing.",
            expected="train/, test/ and perhaps val/",
        )
    survey.loose += survey.entries(folder)[1]
    notes = [_unlabeled(pictures[0].parent, survey, pictures) for pictures in unlabeled]
    if beside:
        counts = ", ".join(f"{shown(path.name)} ({len(looked_at.pictures(path))} images)" for path in beside)
        notes.append(f"folders beside those for training and testing were left out: {counts}")
    return chosen, notes


def _perhaps_splits(classes: dict[str, Path], survey: _Survey) -> list[str]:
    """Return a sentence where all classes hold folders of the same names, as splits do whose spelling is not known."""
    looked_at = _Survey(survey.root, survey.own)
    inside = [sorted(path.name for path in looked_at.entries(folder)[0]) for folder in classes.values()]
    if len(inside) < 2 or len(inside[0]) < 2 or any(names != inside[0] for names in inside):
        return []
    return [
        f"every class holds the folders {', '.join(map(shown, inside[0][:3]))}{', ...' if len(inside[0]) > 3 else ''}: "
        "if these are the classes, call the folders above train and test"
    ]


def _unlabeled(folder: Path, survey: _Survey, pictures: list[Path]) -> str:
    return f"{survey.name(folder)} is unlabeled, as it has no class folders: its {len(pictures)} images were left out"


def _unnested(folder: Path) -> Path:
    """Return the folder inside, where an archive wrapped it in another of the same name: seg_train/seg_train."""
    inner = folder / folder.name
    if not inner.is_dir() or any(path.is_dir() for path in folder.iterdir() if path != inner):
        return folder
    return inner


def _classes(folder: Path, survey: _Survey) -> dict[str, Path]:
    """Return class name -> folder, in the names' order."""
    folders, loose = survey.entries(folder)
    survey.loose += loose
    found: dict[str, Path] = {}
    for path in folders:
        name = unicodedata.normalize("NFC", path.name)
        if name in found:
            raise DataError(
                f"{shown(folder)} has two folders that are both read as {name!r}, in two Unicode forms (NFC and NFD).",
                expected="one folder for each class",
                remedy="move the images of one into the other",
            )
        found[name] = path
    checked_names(list(found), f"the folder {shown(folder)}")
    return dict(sorted(found.items()))


def _files(folder: Path, classes: dict[str, Path], names: list[str], survey: _Survey) -> ImageFiles:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        images = sorted(survey.pictures(classes[name]))
        if not images:
            raise DataError(
                f"The class folder {shown(classes[name])} holds no images.",
                expected=f"files named {', '.join(SUFFIXES)}",
                remedy="remove the folder or convert the images; results go into a folder beside the data",
            )
        paths += images
        labels += [label] * len(images)
    if not paths:
        loose = len(survey.entries(folder)[1])
        raise DataError(
            f"{shown(folder)} holds {f'{loose} images and no class folders' if loose else 'no images'}.",
            expected="PATH/CLASS/IMAGE.png or .jpg",
            remedy="give each class a folder; labels that a table lists come as a torch Dataset" if loose else "",
        )
    return ImageFiles(paths, labels)
