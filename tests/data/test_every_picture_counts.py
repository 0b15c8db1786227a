"""Every picture in a folder is read, or it is told why not; and what is no picture of the data is left out."""

from __future__ import annotations

import contextlib
import logging
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset

from genaf_sdk.data import DataSplits, decoding, load_data
from genaf_sdk.data.folders import split_of
from genaf_sdk.data.pictures import SUFFIXES
from genaf_sdk.errors import DataError
from genaf_sdk.export.serve.images import decode

CLASSES = ("ant", "bee", "cat")


def picture(path: Path, seed: int, mode: str = "RGB", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def folder_of(root: Path, *splits: str, count: int = 8, classes: tuple[str, ...] = CLASSES) -> Path:
    for place, split in enumerate(splits or ("",)):
        for label, name in enumerate(classes):
            for index in range(count):
                picture(root / split / name / f"{index}.png", 10_000 * place + 100 * label + index)
    return root


def total(data: DataSplits) -> int:
    return sum(len(split) for split in data.splits().values())


def told(root: Path, caplog: pytest.LogCaptureFixture, words: str, count: int = 24) -> DataSplits:
    """Load; check the number of pictures, and that what was left out is in the notes and on the terminal."""
    with caplog.at_level(logging.WARNING, "genaf_sdk"):
        data = load_data(root)
    assert total(data) == count
    assert data.class_names == CLASSES
    assert any(words in note for note in data.notes), data.notes
    assert words in caplog.text
    return data


def test_links_are_followed_and_do_not_go_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_of(tmp_path / "data")
    for index in range(5):
        picture(tmp_path / "elsewhere" / "deep" / f"{index}.png", 900 + index)
    picture(tmp_path / "single.png", 950)
    (root / "ant" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "bee" / "one.png").symlink_to(tmp_path / "single.png")
    assert total(load_data(root)) == 30
    (root / "ant" / "round").symlink_to(root, target_is_directory=True)
    (tmp_path / "elsewhere" / "deep" / "again").symlink_to(root / "ant", target_is_directory=True)
    told(root, caplog, "lead back to a folder above were left out: 2, the first is ant/", count=30)


def test_links_to_nothing_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_of(tmp_path)
    for index in range(3):
        (root / "ant" / f"9{index}.png").symlink_to(tmp_path / "gone" / f"{index}.png")
    (root / "dog").symlink_to(tmp_path / "gone", target_is_directory=True)
    (root / "cat" / "self.png").symlink_to(root / "cat" / "self.png")
    told(root, caplog, "links to nothing were left out: 5, the first is dog")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".JPG", ".Jfif"])
def test_usual_suffixes_are_read(suffix: str, tmp_path: Path) -> None:
    kinds = {".jfif": "JPEG", ".jif": "JPEG", ".jpe": "JPEG", ".pnm": "PPM", ".pbm": "PPM", ".pgm": "PPM"}
    mode = {".pbm": "1", ".pgm": "L"}.get(suffix, "RGB")
    root = folder_of(tmp_path)
    for index in range(4):
        picture(root / "bee" / f"x{index}{suffix}", index, mode, format=kinds.get(suffix.lower()))
    assert total(load_data(root)) == 28


def test_other_suffixes_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_of(tmp_path)
    (root / "ant" / "photo.heic").write_bytes(b"x")
    os.mkfifo(root / "ant" / "pipe.png")
    told(root, caplog, "no images by their names were left out: 1 .heic, 1 .png")


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN", ".thumbnails"])
@pytest.mark.parametrize("where", ["", "ant"])
def test_hidden_and_vendor_folders_are_left_out(
    name: str, where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder_of(tmp_path)
    for index in range(4):
        picture(root / where / name / "below" / f"{index}.png", 500 + index)
    told(root, caplog, "folders of other programs that hold images were left out: 1")


def test_a_class_may_have_an_odd_name(tmp_path: Path) -> None:
    root = folder_of(tmp_path, classes=("__background__", "bullet_train", "test_tube", "val"))
    assert load_data(root).class_names == ("__background__", "bullet_train", "test_tube", "val")


@pytest.mark.parametrize("file", ["report.json", "metrics.jsonl", "model.safetensors", "checkpoints/run.json"])
def test_folders_that_runs_wrote_are_left_out(file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_of(tmp_path)
    (root / "hardened" / "checkpoints").mkdir(parents=True)
    (root / "hardened" / file).write_text("{}")
    told(root, caplog, "folders that runs of this package write into were left out: 1, the first is hardened")


def test_results_may_not_go_into_the_folder_of_the_data(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    with pytest.raises(DataError, match="results would go into"):
        load_data(root, leave_out=root / "ant" / "..")


def test_an_empty_output_folder_inside_the_data_is_no_class(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    (root / "results").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load_data(root)
    data = load_data(root, leave_out=root / "results")
    assert data.class_names == CLASSES
    assert any("that runs of this package write into were left out: 1, the first is results" in n for n in data.notes)
    assert load_data(root / ".", leave_out=root / "ant" / ".." / "results").class_names == CLASSES


def test_a_class_is_a_class_though_results_go_there(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    assert load_data(root, leave_out=root / "ant").class_names == CLASSES


def test_an_empty_output_folder_beside_splits_is_left_out(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "train", "test")
    for place in (root / "results", root / "train" / "results"):
        place.mkdir()
        assert load_data(root, leave_out=place).class_names == CLASSES
        place.rmdir()


def test_pictures_outside_class_folders_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_of(tmp_path, "train", "val", "test")
    picture(root / "cover.png", 1)
    picture(root / "train" / "stray.png", 2)
    told(root, caplog, "images outside the class folders were left out: 2, the first is cover.png", count=72)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *[("Training", "Test"), ("TRAIN", "TEST"), ("training_set", "test_set"), ("seg_train", "seg_test")],
        *[("train2017", "val2017"), ("Train Images", "Valid-Images"), ("trainset", "testset"), ("train", "valid")],
    ],
)
def test_split_folders_in_any_usual_spelling(train: str, test: str, tmp_path: Path) -> None:
    data = load_data(folder_of(tmp_path, train, test))
    assert data.class_names == CLASSES
    assert (len(data.train) + len(data.validation), len(data.test)) == (24, 24)


def test_split_folders_wrapped_in_their_own_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_of(tmp_path, "seg_train/seg_train", "seg_test/seg_test")
    for index in range(3):
        picture(root / "seg_pred" / "seg_pred" / f"{index}.png", 70_000 + index)
    told(root, caplog, "beside those for training and testing were left out: seg_pred (3 images)", count=48)


@pytest.mark.parametrize("test", ["test", "test/unknown", "Test_Images"])
def test_an_unlabelled_test_folder_is_told(test: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_of(tmp_path, "train")
    for index in range(6):
        picture(root / test / f"{index}.png", 800 + index)
    data = told(
        root, caplog, f"{test.split('/')[0]} is unlabeled, as it has no class folders: its 6 images were left out"
    )
    assert any(note.startswith("no test split") for note in data.notes)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("test", "val"), "no training images in class folders"),
        (("train_a", "train_b", "test"), "'train_a' and 'train_b', and each may be the train split"),
        (("train",), "has a folder 'train' but none for testing"),
    ],
)
def test_splits_that_cannot_be_told_apart_are_refused(splits: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_data(folder_of(tmp_path, *splits))


def test_flat_split_folders_are_no_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for index in range(8):
            picture(tmp_path / split / f"{index}.png", index)
    with pytest.raises(DataError, match="'test', 'train', and no training images in class folders"):
        load_data(tmp_path)


def test_splits_of_an_unknown_spelling_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = load_data(folder_of(tmp_path, "trn", "tst"))
    assert data.class_names == ("trn", "tst")
    assert "every class holds the folders ant, bee, cat" in caplog.text


def test_trains_beside_buses_are_classes(tmp_path: Path) -> None:
    assert load_data(folder_of(tmp_path, classes=("bus", "train"))).class_names == ("bus", "train")


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    word=st.sampled_from(["train", "Training", "TEST", "valid", "Val"]),
    before=st.sampled_from(["", "seg_", "my-", "2017 ", "IMG."]),
    after=st.sampled_from(["", "_set", "-images", "2017", " (1)"]),
)
def test_every_spelling_of_a_split_is_one(word: str, before: str, after: str) -> None:
    wanted = {"t": {"r": "train", "e": "test"}, "v": {"a": "validation"}}[word[0].lower()][word[1].lower()]
    assert split_of(before + word + after) == wanted
    assert split_of(before + "x" + word + after) is None


def test_unicode_forms_of_a_class_are_one_class(tmp_path: Path) -> None:
    name = "café"
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    for split, form in zip(("train", "test"), forms, strict=True):
        folder_of(tmp_path / split, classes=("ant", form))
    assert load_data(tmp_path).class_names == ("ant", forms[0])
    folder_of(tmp_path / "train", classes=(forms[1],))
    with pytest.raises(DataError, match="two Unicode forms"):
        load_data(tmp_path)


def test_names_in_another_encoding_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    (root / "ant" / "0.png").rename(root / "ant" / os.fsdecode(b"\xe9.png"))
    (root / "ant" / os.fsdecode(b"bad\xe9.png")).write_text("x")
    notes = load_data(root, skip_corrupt=True).notes
    assert any(r"bad\xe9.png" in note for note in notes)
    "\n".join(notes).encode("utf-8")
    (root / "bee").rename(root / os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match=r"is not UTF-8.*convmv"):
        load_data(root)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_transparency_shows_white_in_training_and_in_the_server(
    mode: str, on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if on_disk:
        monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    root = folder_of(tmp_path)
    pixels = np.zeros((6, 6, 4), np.uint8)  # black everywhere: only the alpha channel shows something
    pixels[:, :3, 3] = 255
    image = Image.fromarray(pixels)
    path = root / "ant" / "logo.png"
    if mode == "P":
        image = Image.fromarray((pixels[..., 3] > 0).astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0] * 256)
        image.save(path, transparency=0)
    else:
        image.convert(mode).save(path)
    data = told(root, caplog, "alpha channel, which were put on a white ground: 1", count=25)
    found = [pixels for split in data.splits().values() for pixels, _ in split if bool((pixels[:, :, :3] == 0).all())]
    assert len(found) == 1
    assert bool((found[0][:, :, 3:] == 1).all())
    served = torch.from_numpy(decode(path.read_bytes(), (3, 6, 6)).copy())[0].permute(2, 0, 1).float() / 255
    torch.testing.assert_close(served, found[0])


@pytest.mark.parametrize("suffix", ["tif", "webp", "png"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_further_pages_and_frames_are_told(
    suffix: str, on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if on_disk:
        monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    root = folder_of(tmp_path)
    pages = [Image.fromarray(np.full((6, 6, 3), 50 * page, np.uint8)) for page in range(4)]
    pages[0].save(root / "ant" / f"pages.{suffix}", save_all=True, append_images=pages[1:])
    told(root, caplog, "several pages or frames, of which the first is used: 1", count=25)


class Rolled(Dataset):
    def __init__(self, count: int, *, randomly: bool) -> None:
        self.randomly, self.labels = randomly, [index % 3 for index in range(count)]
        self.pixels = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(count))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        step = int(torch.randint(1, 6, ())) if self.randomly else 0
        return torch.roll(self.pixels[index], step, dims=2), self.labels[index]


@pytest.mark.parametrize(("mode", "bands"), [("CMYK", "C, M, Y, K"), ("RGB", "R, G, B")])
def test_four_channels_are_red_green_blue_and_alpha(tmp_path: Path, mode: str, bands: str) -> None:
    """Other bands would be converted to other numbers without a word; the server refuses them as well."""
    for label in CLASSES:
        picture(tmp_path / label / "0.tif", 0, mode)
    with pytest.raises(DataError, match=f"has the bands {bands}"):
        load_data(tmp_path, channels=4)


def test_a_random_transform_is_told(caplog: pytest.LogCaptureFixture) -> None:
    before = torch.get_rng_state()
    assert (
        load_data((Rolled(24, randomly=False), Rolled(12, randomly=False))).notes[0].startswith("no validation split")
    )
    assert torch.get_rng_state().equal(before)
    assert any(
        "read twice" in note for note in load_data((Rolled(24, randomly=False), Rolled(12, randomly=True))).notes
    )
    assert "read twice" in caplog.text


@pytest.mark.parametrize("pixels", [torch.rand(24, 3, 4, 4) / 255, torch.ones(24, 3, 4, 4, dtype=torch.uint8)])
def test_pixels_that_are_nearly_black_are_told(pixels: torch.Tensor) -> None:
    notes = load_data((pixels, torch.arange(24) % 2)).notes
    assert any("divided by 255 twice" in note for note in notes)


PARTS = ["train", "Test", "val", "ant", "bee", ".x", "@eaDir", "café", "cafe\u0301", "1.png", "2.JPG", "3.txt"]


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    paths=st.lists(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4), min_size=1, max_size=12),
    kinds=st.lists(st.sampled_from(["picture", "folder", "link", "text"]), min_size=12, max_size=12),
)
def test_any_tree_of_folders_is_read_or_refused(
    paths: list[list[str]], kinds: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("tree")
    written = 0
    for parts, kind in zip(paths, kinds, strict=False):
        path = root.joinpath(*parts)
        with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "picture":
                Image.new("RGB", (4, 4)).save(path, format="PNG")
                written += 1
            elif kind == "folder":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(root / "ant")
            else:
                path.write_text("x")
    with contextlib.suppress(DataError):
        data = load_data(root, skip_corrupt=True)
        assert written
        assert total(data) > 0
