"""load_data() on ids, arrays, torch data sets and published sets; splits, groups, duplicates and class sizes."""

from __future__ import annotations

import io
import sys
from fractions import Fraction
from itertools import combinations
from math import floor
from pathlib import Path
from typing import get_args
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from genaf_sdk.data import DATA_IDS, DataSplits, LabeledImages, decoding, known_data, load_data
from genaf_sdk.data.sampling import mask_color
from genaf_sdk.data.splits import stratified_split
from genaf_sdk.errors import DataError
from genaf_sdk.export.serve.images import decode
from genaf_sdk.export.serve.images import resize as resize_served
from genaf_sdk.inputs.images import Interpolation
from genaf_sdk.report.reading import read_document
from genaf_sdk.report.sections import DataDescription


def noise(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def labels_of(count: int, classes: int = 3) -> torch.Tensor:
    return torch.arange(count) % classes


def test_digits_are_as_they_always_were() -> None:
    data = load_data("digits")
    assert data.describe()["fingerprint"].startswith("b7b3cd376f5efd0c")
    assert data.describe()["sizes"] == {"train": 1146, "validation": 201, "test": 450}


@pytest.mark.parametrize("shape", [(3, 8, 6), (8, 6, 3), (8, 6)])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("floats", [False, True])
def test_arrays_of_every_layout(shape: tuple[int, ...], kind: str, floats: bool) -> None:
    pixels = noise(60, *shape)
    given = pixels.float() / 255 if floats else pixels
    labels = labels_of(60)
    data = load_data((given, labels) if kind == "torch" else (given.numpy(), labels.numpy()))
    assert data.image_shape == (3, 8, 6)
    whole = sorted(float(split[i][0].sum()) for split in data.splits().values() for i in range(len(split)))
    repeats = 3 if len(shape) == 2 else 1
    expected = sorted((pixels.float().flatten(1).sum(1) * repeats / 255).tolist())
    assert whole == pytest.approx(expected, rel=1e-4)


def test_pairs_of_arrays_are_the_splits() -> None:
    parts = [(noise(count, 3, 4, 4, seed=count), labels_of(count)) for count in (30, 12, 9)]
    data = load_data(parts)
    for split, (pixels, labels) in zip(data.splits().values(), parts, strict=True):
        given, classes = split.sample()
        torch.testing.assert_close(given, pixels.float() / 255)
        torch.testing.assert_close(classes, labels)
    assert data.notes == ()
    assert len(load_data(parts[:2]).test) == 12


def test_torch_datasets_and_datasplits_still_work(striped: DataSplits) -> None:
    assert load_data(striped) is striped
    with pytest.raises(DataError, match="split already"):
        load_data(striped, balance="repeat")
    pixels, labels = striped.train.sample()
    data = load_data(TensorDataset(pixels, labels))
    assert data.name == "TensorDataset"
    assert [len(split) for split in data.splits().values()] == [60, 12, 24]
    three = load_data((striped.train, striped.validation, striped.test))
    torch.testing.assert_close(three.test.sample()[0], striped.test.sample()[0])


@pytest.mark.parametrize(("channels", "expected"), [(1, (1, 5, 7)), (4, (4, 5, 7))])
def test_gray_and_four_bands(channels: int, expected: tuple[int, ...]) -> None:
    data = load_data((noise(30, channels, 5, 7), labels_of(30)), channels=channels)
    assert data.image_shape == expected


def test_every_way_to_resize_has_a_place_in_the_report() -> None:
    """Or a run would end with an error when everything is measured."""
    assert set(get_args(Interpolation)) == set(decoding.INTERPOLATIONS)
    stated = load_data((noise(12, 3, 6, 6), labels_of(12)), image_size=(4, 4), interpolation="box").describe()
    assert read_document(DataDescription, stated, "data").interpolation == "box"


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_images_are_resized_as_asked_and_stay_in_range(interpolation: str) -> None:
    pixels = noise(12, 3, 16, 12)
    data = load_data((pixels, labels_of(12, 2)), image_size=(8, 9), interpolation=interpolation)
    shown, _ = data.train.sample()
    assert shown.shape[1:] == (3, 8, 9)
    assert shown.min() >= 0
    assert shown.max() <= 1
    if interpolation != "nearest":
        image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
        filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
        pillow = np.asarray(image.resize((9, 8), filters[interpolation])) / 255
        own = decoding.resize(pixels[:1], decoding.Target((8, 9), 3, interpolation, "noise"))[0].permute(1, 2, 0)
        assert np.abs(own.numpy() / 255 - pillow).max() < 0.02


@pytest.mark.parametrize("size", [(48, 40), (33, 20), (20, 33), (900, 5), (300, 256)])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("interpolation", list(decoding.INTERPOLATIONS))
def test_served_images_are_resized_as_those_of_training(
    interpolation: str, channels: int, size: tuple[int, int]
) -> None:
    """Noise, on which the bicubic filter overshoots as far as it can; and the fourth band is one like the others."""
    pixels = noise(1, channels, *size)
    stream = io.BytesIO()
    Image.fromarray(pixels[0].permute(1, 2, 0).squeeze(2).numpy()).save(stream, "PNG")
    served = decode(stream.getvalue(), (channels, 24, 16), interpolation=interpolation).astype(int)
    trained_on = decoding.resize(pixels, decoding.Target((24, 16), channels, interpolation, "noise"))
    difference = np.abs(served - trained_on.permute(0, 2, 3, 1).numpy().astype(int)).max()
    assert difference <= 1


def test_of_rows_that_touch_servers_take_the_one_of_training() -> None:
    """64 rows made 96: Pillow rounds centers that lie between two rows; 448 made 96: torch does."""
    target = decoding.Target((96, 1), 3, "nearest", "rows")
    for given in range(1, 710):
        rows = torch.arange(given)[:, None, None].expand(-1, 1, 3)
        pixels = torch.stack([rows[..., 0] // 256, rows[..., 1] % 256, rows[..., 2] * 0], dim=2).byte()
        served = resize_served(Image.fromarray(pixels.numpy()), (1, 96), Image.Resampling.NEAREST)
        trained_on = decoding.resize(pixels.permute(2, 0, 1)[None], target)[0].permute(1, 2, 0)
        exact = [floor(Fraction(2 * at + 1, 2) * Fraction(given, 96)) for at in range(96)]
        assert np.array_equal(np.asarray(served), trained_on.numpy())
        assert (trained_on[:, 0, 0].int() * 256 + trained_on[:, 0, 1]).tolist() == exact


def test_the_split_is_stratified_and_every_image_is_in_one_split() -> None:
    labels = torch.tensor([0] * 70 + [1] * 30)
    pixels = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1).expand(100, 3, 2, 2)
    data = load_data((pixels, labels), validation_fraction=0.2)
    identities = [set((split.sample()[0][:, 0, 0, 0] * 255).round().int().tolist()) for split in data.splits().values()]
    assert sorted(value for part in identities for value in part) == list(range(100))
    for split in data.splits().values():
        assert float((split.labels == 0).float().mean()) == pytest.approx(0.7, abs=0.03)


def test_no_group_is_in_two_splits() -> None:
    generator = torch.Generator().manual_seed(1)
    groups = torch.randint(0, 40, (400,), generator=generator).tolist()
    labels = torch.tensor([group % 3 for group in groups])
    pixels = torch.tensor(groups, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    data = load_data((pixels, labels), groups=np.array([f"video {group}" for group in groups]))
    shown = [set((split.sample()[0][:, 0, 0, 0] * 255).round().int().tolist()) for split in data.splits().values()]
    assert all(not first & second for first, second in combinations(shown, 2))
    assert 0.15 < len(data.test) / 400 < 0.35
    assert 0.05 < len(data.validation) / 300 < 0.3
    assert any("whole groups" in note for note in data.notes)


def test_groups_that_cannot_be_divided_or_straddle_are_refused() -> None:
    pixels, labels = noise(30, 3, 2, 2), labels_of(30)
    with pytest.raises(DataError, match="class 0 are in one group"):
        load_data((pixels, labels), groups=labels.tolist())
    with pytest.raises(DataError, match="29 groups for 30 images"):
        load_data((pixels, labels), groups=range(29))
    with pytest.raises(DataError, match="group '0' and 29 more are in two splits"):
        load_data([(pixels, labels), (pixels, labels)], groups=[*range(30), *range(30)])
    with pytest.raises(DataError, match="no folder"):
        load_data((pixels, labels), groups=lambda path: path.stem)


def test_the_same_seed_sets_the_same_images_aside() -> None:
    images = LabeledImages.in_memory(noise(50, 3, 2, 2), labels_of(50))
    assert stratified_split(images, 0.2, seed=3) == stratified_split(images, 0.2, seed=3)
    assert stratified_split(images, 0.2, seed=3) != stratified_split(images, 0.2, seed=4)


def test_duplicates_across_splits_are_counted() -> None:
    pixels = noise(60, 3, 4, 4)
    train, validation, test = pixels[:30], pixels[28:40], pixels[38:60]
    data = load_data([(part, labels_of(len(part))) for part in (train, validation, test)])
    assert data.notes == (
        "duplicates: 2 of 12 validation images are also train images",
        "duplicates: 2 of 22 test images are also validation images",
    )


def test_class_imbalance_is_said_and_evened_out_only_if_asked() -> None:
    parts = [(noise(55, 3, 2, 2, seed=seed), torch.tensor([0] * 40 + [1] * 12 + [2] * 3)) for seed in range(3)]
    plain, evened = load_data(parts), load_data(parts, balance="repeat")
    assert plain.class_counts() == [40, 12, 3]
    assert evened.class_counts() == [40, 40, 30], "no image more than ten times"
    assert any("'0' has 40 training images, '2' 3 (13.3 to 1); balance='repeat'" in note for note in plain.notes)
    assert any("repeated, up to 10 times" in note for note in evened.notes)
    for label, most in ((0, 1), (1, 4), (2, 10)):
        pixels, _ = evened.train.subset(torch.nonzero(evened.train.labels == label).flatten().tolist()).sample()
        shown, times = pixels.flatten(1).unique(dim=0, return_counts=True)
        assert (len(shown), int(times.max())) == ([40, 12, 3][label], most)
    assert evened.validation.sample()[0].equal(plain.validation.sample()[0])
    assert evened.test.sample()[0].equal(plain.test.sample()[0])


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("cifar1O", {}, "try cifar10"),
        (3, {}, "is a int"),
        ((noise(4, 3, 2, 2), labels_of(3)), {}, r"shapes \(4, 3, 2, 2\) and \(3,\)"),
        ((noise(9, 5, 2, 2), labels_of(9)), {}, r"Image 0 of 'arrays' is \(5, 2, 2\)"),
        ((noise(9, 3, 2, 2) / 255 - 0.5, labels_of(9)), {}, "remove Normalize"),
        ((noise(9, 3, 2, 2) / 255 - 0.5, labels_of(9)), {"image_size": (4, 4)}, "remove Normalize"),
        ((noise(9, 3, 2, 2).float(), labels_of(9)), {}, "divide them by 255"),
        ((noise(9, 3, 2, 2) / torch.zeros(1), labels_of(9)), {}, "NaN or infinity"),
        ((noise(9, 3, 2, 2), labels_of(9)), {"image_size": 4}, "image_size is 4 .*a pair"),
        ((noise(9, 3, 2, 2), labels_of(9)), {"image_size": (4, -1)}, "whole numbers above 0"),
        ((noise(9, 3, 2, 2), labels_of(9)), {"channels": 0}, "channels is 0"),
        ((noise(9, 3, 2, 2), labels_of(9)), {"validation_fraction": 1.5}, "a share between 0 and 1"),
        ((noise(9, 3, 2, 2), labels_of(9)), {"groups": [[1]] * 9}, "A group is the list"),
        ((np.array([None, "a"]), np.zeros(2)), {}, "The arrays cannot be read"),
        ((noise(9, 3, 2, 2).int(), labels_of(9)), {}, "of type torch.int32"),
        ((noise(9, 3, 2, 2), labels_of(9) + 0.5), {}, "label of image 0 of 'arrays' is 0.5"),
        ((noise(9, 3, 2, 2), labels_of(9)), {"balance": "sampler"}, "'none' or 'repeat'"),
        ((noise(9, 3, 2, 2), labels_of(9)), {"interpolation": "cubic"}, "one of nearest"),
        ((noise(3, 3, 2, 2), labels_of(3)), {}, "Class 0 has too few images"),
        ((noise(0, 3, 2, 2), labels_of(0)), {}, "no image that can be read"),
    ],
)
def test_what_cannot_be_used_is_refused(data: object, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(data, **options)  # type: ignore[arg-type]


def test_published_sets_are_read_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "gtsrb"
    for label in range(2):
        folder = base / "GTSRB" / "Training" / f"{label:05d}"
        folder.mkdir(parents=True)
        for index in range(8):
            pixels = noise(1, 9, 7, 3, seed=10 * label + index)[0].numpy()
            for frame in range(3):
                Image.fromarray(pixels).save(folder / f"{index:05d}_{frame:05d}.ppm")
    tests = base / "GTSRB" / "Final_Test" / "Images"
    tests.mkdir(parents=True)
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for index in range(4):
        Image.fromarray(noise(1, 9, 7, 3, seed=50 + index)[0].numpy()).save(tests / f"{index:05d}.ppm")
        rows.append(f"{index:05d}.ppm;7;9;0;0;6;8;{index % 2}")
    (base / "GT-final_test.csv").write_text("\n".join(rows) + "\n")
    data = load_data("gtsrb", root=tmp_path, image_size=(8, 8))
    assert data.describe()["sizes"] == {"train": 42, "validation": 6, "test": 4}
    assert not [note for note in data.notes if note.startswith("duplicates")], "frames of one sign are in one split"
    assert any("in whole groups" in note for note in data.notes)
    monkeypatch.setenv("GENAF_DATA_ROOT", str(tmp_path))
    assert load_data("gtsrb", image_size=(8, 8)).describe() == data.describe()


def test_published_sets_that_list_files_are_decoded_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formats and sizes are held to for them, too, and a file that cannot be read is named."""

    class Textures:
        classes = ("braided", "dotted")

        def __init__(self, root: Path, split: str, download: bool) -> None:
            self._image_files = [tmp_path / f"{split}{index}.png" for index in range(8)]
            self._labels = [index % 2 for index in range(8)]
            for index, path in enumerate(self._image_files):
                kind = "GIF" if path.name == "val3.png" else "PNG"
                Image.fromarray(
                    noise(1, 6, 6, 3, seed=10 * len(split) + index + (split == "val") * 90)[0].numpy()
                ).save(path, kind)

    monkeypatch.setattr("torchvision.datasets.DTD", Textures)
    with pytest.raises(DataError, match=r"1 of 24 images .*val3\.png \(no image\)"):
        load_data("dtd", root=tmp_path)
    data = load_data("dtd", root=tmp_path, skip_corrupt=True)
    assert data.class_names == ("braided", "dotted")
    assert data.describe()["sizes"] == {"train": 8, "validation": 7, "test": 8}


def test_classes_of_several_names_have_the_first(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label, folder in enumerate(("n01440764", "n02979186")):
            place = tmp_path / "imagenette2-320" / split / folder
            place.mkdir(parents=True)
            for index in range(4):
                pixels = noise(1, 6, 6, 3, seed=100 * len(split) + 10 * label + index)[0].numpy()
                Image.fromarray(pixels).save(place / f"{index}.JPEG")
    data = load_data("imagenette", root=tmp_path)
    assert data.class_names == ("tench", "cassette player")


@pytest.mark.parametrize("name", [name for name in DATA_IDS if ":" not in name and name != "digits"])
def test_what_is_not_there_says_what_to_fetch_and_where_it_goes(name: str, tmp_path: Path) -> None:
    entry = next(entry for entry in known_data() if entry.id == name)
    with pytest.raises(DataError) as caught:
        load_data(name, root=tmp_path)
    assert str(tmp_path) in caught.value.expected
    assert entry.url in caught.value.remedy
    assert "GENAF_DATA_ROOT" in caught.value.remedy
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing is downloaded unasked"


def test_a_download_that_fails_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError, match="no network"):
        load_data("cifar10", root=tmp_path, download=True)


def test_known_data_lists_every_id() -> None:
    assert [entry.id for entry in known_data()] == list(DATA_IDS)
    by_id = {entry.id: entry for entry in known_data()}
    assert by_id["cifar10"].sizes == (50_000, 10_000)
    assert by_id["gtsrb"].classes == 43


def test_hub_data_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'genaf-sdk\[datasets\]'"):
        load_data("hub:some/data")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_hub_data(monkeypatch: pytest.MonkeyPatch) -> None:
    library, arrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    features = library.Features({"picture": library.Image(), "kind": library.ClassLabel(names=["cat", "dog"])})

    def split(count: int, seed: int) -> object:
        pictures = [{"bytes": png(array), "path": None} for array in noise(count, 6, 5, 3, seed=seed)]
        columns = {"picture": pictures, "kind": labels_of(count, 2).tolist()}
        table = arrow.table(columns, schema=features.arrow_schema)
        return library.Dataset(table, info=library.DatasetInfo(features=features), fingerprint=str(seed))

    def png(array: torch.Tensor) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(array.numpy()).save(stream, "PNG")
        return stream.getvalue()

    asked = []

    def load(name: str, configuration: str | None, download_config: object) -> object:
        asked.append((name, configuration, download_config.local_files_only))
        if name == "none/here":
            raise ConnectionError("offline")
        return library.DatasetDict({"train": split(20, 0), "validation": split(6, 1)})

    monkeypatch.setattr(library, "load_dataset", load)
    data = load_data("hub:some/data:small")
    assert asked == [("some/data", "small", True)], "nothing is downloaded unasked"
    assert data.class_names == ("cat", "dog")
    assert data.describe()["sizes"] == {"train": 16, "validation": 4, "test": 6}
    torch.testing.assert_close(data.test.sample()[0], noise(6, 6, 5, 3, seed=1).permute(0, 3, 1, 2).float() / 255)
    with pytest.raises(DataError, match="hf download none/here --repo-type dataset"):
        load_data("hub:none/here")


def test_the_color_of_masks_has_four_digits_in_every_file_that_states_it() -> None:
    train = LabeledImages.in_memory(torch.full((7, 3, 2, 2), 1 / 3), torch.zeros(7, dtype=torch.long))
    assert mask_color(train, 0) == (0.3333,) * 3
