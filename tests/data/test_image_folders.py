"""Folders of pictures: layouts, and everything that goes wrong with files."""

from __future__ import annotations

import pickle
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from genaf_sdk.data import decoding, load_data, loading
from genaf_sdk.data.loading import loader_options
from genaf_sdk.errors import DataError

CLASSES = ("cat", "dog")


def picture(path: Path, seed: int, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def folder_of(root: Path, *splits: str, count: int = 12) -> Path:
    for number, split in enumerate(splits or ("",)):
        for label, name in enumerate(CLASSES):
            for index in range(count):
                picture(root / split / name / f"{index // 3}_{index}.png", 1000 * number + 100 * label + index)
    return root


@pytest.mark.parametrize(
    ("splits", "sizes", "notes"),
    [
        ((), (16, 2, 6), ("no test split", "no validation split")),
        (("train", "test"), (20, 4, 24), ("no validation split",)),
        (("training", "valid", "testing"), (24, 24, 24), ()),
        (("train", "val"), (20, 4, 24), ("no test folder", "no validation split")),
    ],
)
@pytest.mark.parametrize("spelling", ["", "folder:"])
def test_layouts(splits: tuple[str, ...], sizes: tuple[int, ...], notes: tuple[str, ...], spelling: str, tmp_path):
    data = load_data(f"{spelling}{folder_of(tmp_path / 'pets', *splits)}")
    assert tuple(len(split) for split in data.splits().values()) == sizes
    assert data.class_names == CLASSES
    assert data.name == "pets"
    assert [note.partition(":")[0] for note in data.notes] == list(notes)


def test_large_data_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path, "train", "val", "test")
    cached = load_data(root)
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    lazy = load_data(root)
    assert lazy.train.on_disk
    assert not cached.train.on_disk
    for kept, read in zip(cached.splits().values(), lazy.splits().values(), strict=True):
        torch.testing.assert_close(read.sample(), kept.sample())
    assert lazy.notes == cached.notes == ()
    assert pickle.loads(pickle.dumps(lazy.train))[5][0].equal(lazy.train[5][0]), "workers may be started afresh"
    shutil.copy(root / "train" / "dog" / "0_0.png", root / "test" / "cat" / "copy.png")
    note = "duplicates: 1 of 25 test images are also train images"
    assert load_data(root).notes == (note,)
    monkeypatch.undo()
    assert load_data(root).notes == (note,)
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    (root / "test" / "cat" / "0_0.png").write_bytes((root / "test" / "cat" / "0_1.png").read_bytes()[:60])
    truncated = load_data(root)
    with pytest.raises(DataError, match=r"0_0\.png"):
        truncated.test.sample()


def test_duplicates_are_found_between_memory_and_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path, "train", "val", "test")
    shutil.copy(root / "train" / "dog" / "0_0.png", root / "test" / "cat" / "copy.png")
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 3 * 8 * 6 * 2 * 12)
    data = load_data(root)
    assert [split.on_disk for split in data.splits().values()] == [False, True, True]
    assert data.notes == ("duplicates: 1 of 25 test images are also train images",)


def test_files_that_agree_in_a_part_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans on black ground, say, in a format that does not compress: their middles are alike, and their lengths."""
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    for number, split in enumerate(("train", "val", "test")):
        for label, name in enumerate(CLASSES):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(3):
                scan = Image.new("RGB", (200, 200))
                scan.paste((10 * number, 10 * label, 10 * index + 1), (0, 0, 200, 9))
                scan.save(tmp_path / split / name / f"{index}.bmp")
    assert load_data(tmp_path).notes == ()
    shutil.copy(tmp_path / "train" / "dog" / "0.bmp", tmp_path / "test" / "cat" / "copy.bmp")
    assert load_data(tmp_path).notes == ("duplicates: 1 of 7 test images are also train images",)


def test_splits_share_the_memory_and_the_training_split_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of(tmp_path, "train", "val", "test")
    train = 3 * 8 * 6 * sum(1 for path in (root / "train").rglob("*.png"))
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", train)
    assert {name: split.on_disk for name, split in load_data(root).splits().items()} == {
        "train": False, "validation": True, "test": True
    }  # fmt: skip
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 3 * train)
    assert not any(split.on_disk for split in load_data(root).splits().values())


@pytest.mark.parametrize("in_memory", [False, True])
def test_loaders_are_sized_to_the_machine(in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not in_memory:
        monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    images = load_data(folder_of(tmp_path)).train
    monkeypatch.setattr(loading, "processors", lambda: 4)
    cpu = torch.device("cpu")
    assert loader_options(images, cpu)["num_workers"] == (0 if in_memory else 3)
    assert not loader_options(images, cpu)["pin_memory"]
    assert loader_options(images, cpu, processes=4)["num_workers"] == 0
    assert loader_options(images, torch.device("cuda"))["pin_memory"]
    monkeypatch.setattr(loading, "processors", lambda: 2)
    loader = DataLoader(images, 5, collate_fn=lambda batch: batch, **loader_options(images, cpu))
    assert torch.cat([pixels for pixels, _ in loader]).equal(images.sample()[0])


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """Six files of five kinds that cannot be used, among 24 good ones."""
    root = folder_of(tmp_path)
    good = (root / "cat" / "0_0.png").read_bytes()
    (root / "cat" / "cut.png").write_bytes(good[: len(good) // 2])
    (root / "cat" / "empty.png").write_bytes(b"")
    (root / "dog" / "text.jpg").write_text("not an image")
    (root / "dog" / "page.png").write_text("<html>")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(root / "dog" / "deep.png")
    (root / "dog" / "bomb.png").write_bytes(bomb(30_000, 30_000))
    return root


def bomb(width: int, height: int) -> bytes:
    """A few bytes that claim to be a very large PNG."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD = ("cut.png", "empty.png", "text.jpg", "page.png", "deep.png", "bomb.png")


@pytest.mark.parametrize("on_disk", [False, True])
def test_unreadable_images_are_named_and_counted_in_one_error(
    spoiled: Path, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_disk:
        monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    bad = [name for name in BAD if not (on_disk and name == "cut.png")]  # its header is whole
    with pytest.raises(DataError, match=f"{len(bad)} of 30 images") as caught:
        load_data(spoiled)
    assert all(name in caught.value.problem for name in bad)
    assert "decompression bomb" in caught.value.problem
    assert "skip_corrupt=True" in caught.value.remedy


def test_unreadable_images_are_left_out_only_if_asked(spoiled: Path) -> None:
    data = load_data(spoiled, skip_corrupt=True, groups=lambda path: f"{path.parent.name}{path.stem[0]}")
    assert sum(len(split) for split in data.splits().values()) == 24
    (note,) = [note for note in data.notes if note.startswith("6 of 30 images cannot be read and were left out")]
    assert str(spoiled) not in note, "a published report tells nobody how this machine is laid out"
    assert "cat/cut.png" in note


@pytest.mark.parametrize("size", [(9_500, 9_500), (14_000, 14_000)])
def test_bombs_are_refused_whether_or_not_pillow_warns(size: tuple[int, int], tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    (root / "cat" / "0_bomb.png").write_bytes(bomb(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=r"0_bomb\.png .*decompression bomb"):
            load_data(root)


@pytest.mark.parametrize(("mode", "size", "reason"), [("1", (9_500, 9_500), "bomb"), ("I;16", (4, 4), "8 bits")])
def test_pictures_of_torch_datasets_are_looked_at_before_they_are_decoded(mode: str, size, reason: str) -> None:
    class Pictures(Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.new(*((mode, size) if index == 7 else ("RGB", (4, 4)))), index % 2

    with pytest.raises(DataError, match=rf"1 of 20 images .*image 7 .*{reason}"):
        load_data(Pictures())
    assert sum(len(split) for split in load_data(Pictures(), skip_corrupt=True).splits().values()) == 19


def test_damage_anywhere_in_a_file_is_named_or_harmless(tmp_path: Path) -> None:
    root, generator = folder_of(tmp_path), np.random.default_rng(0)
    for index, suffix in enumerate(("png", "jpg", "tiff", "webp", "bmp", "ppm") * 20):
        path = root / "cat" / f"damaged{index}.{suffix}"
        content = bytearray(picture(path, index, (24, 24)).read_bytes())
        places = generator.integers(0, len(content), 8)
        for place, value in zip(places, generator.integers(0, 256, 8), strict=True):
            content[place] = value
        path.write_bytes(bytes(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about metadata
        with pytest.raises(DataError, match=r"of 144 images .* cannot be read"):
            load_data(root)


def test_photographs_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "train", "val", "test")
    upright = Image.fromarray(np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    upright.rotate(90, expand=True).save(root / "test" / "cat" / "0_0.png", exif=exif)
    shown, _ = load_data(root).test[0]
    expected = torch.from_numpy(np.asarray(upright).copy()).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(shown, expected)


def test_groups_by_file_name(tmp_path: Path) -> None:
    data = load_data(folder_of(tmp_path, count=30), groups=lambda path: path.stem.partition("_")[0])
    assert any("whole groups" in note for note in data.notes)
    assert len(data.test) % 3 == 0, "three frames a video"


def test_many_unreadable_images_are_counted_beyond_those_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    for index in range(15):
        (root / "cat" / f"bad{index:02d}.png").write_text("x")
    with pytest.raises(DataError, match=r"15 of 39 images .* and 5 more"):
        load_data(root)


def test_files_that_are_no_images_are_noted(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    for name in ("a.heic", "b.heic", "notes.txt", ".DS_Store"):
        (root / "cat" / name).write_text("x")
    assert "files that are no images by their names were left out: 2 .heic, 1 .txt" in load_data(root).notes


def test_layouts_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no folder.*To do: correct the path; as far as {tmp_path} it is there"):
        load_data(tmp_path / "missing" / "more")
    with pytest.raises(DataError, match=f"no folder.*To do: correct the path; as far as {tmp_path} it is there"):
        load_data(f"folder:{tmp_path / 'missing'}")
    with pytest.raises(DataError, match="no folder ''"):
        load_data("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load_data(tmp_path / "empty")
    folder_of(tmp_path / "only", "train")
    with pytest.raises(DataError, match="none for testing"):
        load_data(tmp_path / "only")
    differing = folder_of(tmp_path / "differing", "train", "test")
    picture(differing / "test" / "bird" / "1.png", 0)
    with pytest.raises(DataError, match=r"has class 'bird', which .*train lacks"):
        load_data(differing)
    hollow = folder_of(tmp_path / "hollow")
    (hollow / "ant").mkdir()
    with pytest.raises(DataError, match="ant holds no images"):
        load_data(hollow)
    for index in range(8):
        picture(tmp_path / "lone" / "cat" / f"{index}.png", index)
    with pytest.raises(DataError, match=r"one class alone: 'cat'.*one folder for each class"):
        load_data(tmp_path / "lone")


def test_published_folders_carry_their_names(tmp_path: Path) -> None:
    for number, name in enumerate(("cane", "gatto")):
        for index in range(8):
            picture(tmp_path / "animals-10" / name / f"{index}.jpeg", 10 * number + index)
    data = load_data("animals-10", root=tmp_path)
    assert data.class_names == ("dog", "cat")


def test_a_flat_folder_is_told_what_it_lacks(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{index}.png")
    (tmp_path / "labels.csv").write_text("file,label")
    with pytest.raises(DataError, match="holds 3 images and no class folders"):
        load_data(tmp_path)


def test_a_class_of_too_few_images_is_called_by_its_name(tmp_path: Path) -> None:
    for name, count in (("ant", 8), ("bee", 2)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{index}.png")
    with pytest.raises(DataError, match="Class 'bee' has too few images: with 1 of 1 set aside, none is left"):
        load_data(tmp_path)
    with pytest.raises(DataError, match="class 'ant' are in one group"):
        load_data(tmp_path, groups=lambda path: path.parent.name)
