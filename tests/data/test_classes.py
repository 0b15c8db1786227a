"""Labels mean what they say: by name between data and data, and between data and a model."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split
from torchvision.datasets import ImageFolder

from genaf_sdk import evaluate
from genaf_sdk.config import EvaluationConfig
from genaf_sdk.data import DataSplits, LabeledImages, decoding, load_data
from genaf_sdk.data.alignment import aligned, aligned_to_all
from genaf_sdk.data.classes import checked_names, label_map, names_by_label
from genaf_sdk.data.samples import as_labels
from genaf_sdk.errors import DataError

COLORS = {"ant": (250, 20, 20), "bee": (20, 250, 20), "cat": (20, 20, 250), "dog": (250, 250, 20)}


def folder_of(root: Path, *names: str, count: int = 12) -> ImageFolder:
    """One folder a class, of pictures in the class's own color."""
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((4, 4, 3), COLORS[name], np.uint8)
            pixels[0, 0] = index  # no two alike
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return ImageFolder(str(root))


def shown(data: DataSplits) -> set[tuple[str, str]]:
    """Pairs of what a label is called and what its picture shows."""
    pairs = set()
    for split in data.splits().values():
        pixels, labels = split.sample()
        colors = (pixels[:, :, 2, 2] * 255).round().int().tolist()
        names = {color: name for name, color in COLORS.items()}
        pairs |= {(data.class_names[label], names[tuple(c)]) for label, c in zip(labels.tolist(), colors, strict=True)}
    return pairs


def right(*names: str) -> set[tuple[str, str]]:
    return {(name, name) for name in names}


class Renumbered(Dataset):
    """A data set with its classes in another order, as ``class_to_idx`` of one's own gives."""

    def __init__(self, inner: ImageFolder, classes: tuple[str, ...]) -> None:
        self.inner, self.classes = inner, list(classes)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image, label = self.inner[index]
        return image, self.classes.index(self.inner.classes[label])


@pytest.mark.parametrize("on_disk", [False, True])
def test_two_numberings_of_the_same_classes_are_joined_by_name(
    on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = folder_of(tmp_path / "train", "ant", "bee", "cat")
    test = Renumbered(folder_of(tmp_path / "test", "ant", "bee", "cat"), ("cat", "ant", "bee"))
    if on_disk:
        monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    for parts in ((train, test), (test, train), (ConcatDataset([train, test]),)):
        data = load_data(parts if len(parts) > 1 else parts[0])
        assert shown(data) == right("ant", "bee", "cat")
    assert any("mapped by class name" in note for note in load_data((train, test)).notes)


def test_other_classes_are_refused_and_named(tmp_path: Path) -> None:
    train = folder_of(tmp_path / "train", "ant", "bee", "cat")
    with pytest.raises(DataError, match=r"lacks class 'bee' and it has class 'dog'"):
        load_data((train, folder_of(tmp_path / "test", "ant", "cat", "dog")))
    with pytest.raises(DataError, match="lacks class 'cat'"):
        load_data((train, folder_of(tmp_path / "few", "ant", "bee")))
    (tmp_path / "capitals").mkdir()
    (tmp_path / "few" / "bee").rename(tmp_path / "capitals" / "Bee")
    (tmp_path / "few" / "ant").rename(tmp_path / "capitals" / "ant")
    (tmp_path / "train" / "cat").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="rename 'Bee' to 'bee'"):
        load_data((ImageFolder(str(tmp_path / "train")), ImageFolder(str(tmp_path / "capitals"))))


def test_names_survive_wrappers(tmp_path: Path) -> None:
    whole = folder_of(tmp_path, "ant", "bee", "cat", count=16)

    class Transformed(Dataset):
        def __init__(self, dataset: Dataset) -> None:
            self.dataset = dataset

        def __len__(self) -> int:
            return len(self.dataset)  # type: ignore[arg-type]

        def __getitem__(self, index: int) -> Any:
            return self.dataset[index]

    class Chosen(Subset):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image, label

        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [self[index] for index in indices]

    parts = random_split(whole, [36, 12], generator=torch.Generator().manual_seed(0))
    for dataset in (
        tuple(parts),
        Subset(Subset(whole, range(48)), range(47, -1, -1)),
        ConcatDataset(parts),
        Transformed(parts[0]),
        Chosen(whole, list(range(48))),
        (Transformed(Chosen(whole, parts[0].indices)), parts[1]),
    ):
        assert shown(load_data(dataset)) == right("ant", "bee", "cat")


def test_a_wrapper_that_renumbers_loses_the_names_and_says_so(tmp_path: Path) -> None:
    whole = folder_of(tmp_path, "ant", "bee", "cat", count=16)

    class Reversed(Dataset):
        dataset = whole

        def __len__(self) -> int:
            return len(whole)

        def __getitem__(self, index: int) -> Any:
            image, label = whole[index]
            return image, 2 - label

    data = load_data(Reversed())
    assert data.class_names == ("0", "1", "2")
    assert any("renumbers the classes" in note for note in data.notes)


def test_a_concatenation_has_the_classes_of_all_parts(tmp_path: Path) -> None:
    pets = folder_of(tmp_path / "pets", "cat", "dog")
    insects = folder_of(tmp_path / "insects", "ant", "bee", "cat")
    assert shown(load_data(ConcatDataset([pets, insects]))) == right("ant", "bee", "cat", "dog")
    assert shown(load_data(Subset(ConcatDataset([pets, insects]), range(60)))) == right("ant", "bee", "cat", "dog")
    unnamed = TensorDataset(torch.zeros(4, 3, 4, 4), torch.zeros(4).long())
    with pytest.raises(DataError, match="name their classes and others do not"):
        load_data(ConcatDataset([pets, unnamed]))


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    ("transform", "classes", "said"),
    [
        (lambda label: 2 - label, ("cat", "bee", "ant"), False),
        (lambda label: min(label, 1), ("0", "1"), True),
        (lambda label: torch.tensor(label), ("ant", "bee", "cat"), False),
    ],
)
def test_target_transform_counts_in_memory_and_on_disk(
    on_disk: bool, transform: Callable[[int], Any], classes: tuple[str, ...], said: bool, tmp_path: Path, monkeypatch
) -> None:
    if on_disk:
        monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    whole = folder_of(tmp_path, "ant", "bee", "cat")
    whole.target_transform = transform
    data = load_data(whole)
    assert data.class_names == classes
    assert any("target_transform" in note for note in data.notes) is said
    if not said:
        assert shown(data) == right("ant", "bee", "cat")


def test_listed_labels_that_differ_from_those_of_the_items_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneBased(Dataset):
        """Lists labels from 1, gives them from 0."""

        def __init__(self) -> None:
            self.labels = [1 + index % 3 for index in range(48)]

        def __len__(self) -> int:
            return 48

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return torch.full((3, 2, 2), index / 255), self.labels[index] - 1

    in_memory = load_data(OneBased())
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    on_disk = load_data(OneBased())
    assert on_disk.class_names == in_memory.class_names == ("0", "1", "2")
    assert on_disk.test.labels.equal(in_memory.test.labels)


class Rows(Dataset):
    def __init__(self, rows: list[Any], **attributes: Any) -> None:
        self.rows = rows
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def rows(labels: list[Any]) -> Rows:
    return Rows([(torch.full((3, 2, 2), index / 255), label) for index, label in enumerate(labels)])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, float("nan"), 1.0, 1.0], "label of image 1 .* is nan"),
        ([0.0, float("inf")], "is inf"),
        ([0, 1, -1, 1], "is -1.*leave out images without a label"),
        ([torch.eye(3)[0]] * 4, r"of shape \(3,\).*argmax"),
        ([np.zeros((1, 2))] * 4, r"of shape \(1, 2\)"),
        (["cat", "dog"] * 4, "is 'cat'.*give their names as `classes`"),
        ([None, 1], "is None"),
        ([True, False], "is True"),
        ([10**30, 0], "number the classes from 0"),
        ([{"id": 1}] * 3, "is {'id': 1}"),
        ([[0, 1]] * 3, r"is \[0, 1\]"),
    ],
)
def test_labels_that_are_no_class(labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(rows(labels * 6))


@pytest.mark.parametrize("wrap", [int, float, np.int16, np.uint8, torch.tensor, np.array, lambda x: torch.tensor([x])])
def test_whole_numbers_of_every_type_are_labels(wrap: Callable[[int], Any]) -> None:
    assert load_data(rows([wrap(label) for label in (0, 1, 2) * 12])).class_names == ("0", "1", "2")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.complex_numbers()
values = st.recursive(scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=2), x, max_size=2))
few = settings(max_examples=60, deadline=None, derandomize=True)


@few
@given(value=values)
def test_any_label_is_a_class_or_an_error(value: Any) -> None:
    try:
        found = as_labels([value], "data")
    except DataError:
        return
    assert found.tolist() == [value]
    assert found.item() >= 0


@few
@given(item=values | st.tuples(values) | st.tuples(values, values, values), image=st.booleans())
def test_any_item_is_read_or_an_error(item: Any, image: bool) -> None:
    items = [item, item] if not image else [{"image": item, "label": 0}, (np.zeros((2, 2), np.uint8), item)]
    with pytest.raises(DataError):
        load_data(Rows(items))


@pytest.mark.parametrize("keys", [("image", "label"), ("pixel_values", "labels"), ("img", "target")])
def test_dicts_with_an_image_and_a_label_are_items(keys: tuple[str, str]) -> None:
    given = Rows([dict(zip(keys, row, strict=True)) for row in rows([0, 1, 2] * 12).rows])
    assert load_data(given).class_names == ("0", "1", "2")


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(())


class Failing(Rows):
    def __getitem__(self, index: int) -> Any:
        raise KeyError("path")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Rows([(torch.zeros(3, 2, 2), 0, "a.png")] * 9), r"is a tuple of 3\. Expected: a data set of \(image, label\)"),
        (Rows([{"image": 1, "label": 0, "target": 0}] * 9), "exactly one of the keys"),
        (Rows([{"image": 1, "caption": "a cat"}] * 9), "keys 'image', 'caption'"),
        (Rows([None] * 9), "is a NoneType"),
        (Failing([0] * 9), "Item 0 of 'Failing' cannot be read: KeyError: 'path'"),
        (Stream(), "Stream, which has no length.*collect its items first"),
        ((Stream(), Stream()), "the training data set is a Stream"),
        (("train", "test"), "the training data set is a str"),
        ((Rows([]), 3), "the test data set is a int"),
        (Rows([(torch.zeros(3, 2, 2), 0)], classes={"a": 0, "b": 2}), r"numbered \[0, 2\]"),
        (Rows([(torch.zeros(3, 2, 2), 0)], classes=["crane", "crane"]), "'crane' is there twice"),
        (Rows([(torch.zeros(3, 2, 2), 0)], classes=["a", " "]), "empty name"),
        ([(torch.zeros(3, 2, 2), 0)] * 5, "is a list of 5"),
    ],
)
def test_data_sets_of_another_kind(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(given)


def test_classes_may_be_a_dict() -> None:
    assert names_by_label({"zebra": 0, "ape": 2, "mole": 1}, "it") == ("zebra", "mole", "ape")
    assert names_by_label({0: "zebra", 1: "mole"}, "it") == ("zebra", "mole")
    assert names_by_label({"cat": 0, "kitten": 0, "dog": 1}, "it") is None
    data = load_data(Rows(rows([0, 1, 2] * 12).rows, classes={"zebra": 0, "ape": 2, "mole": 1}))
    assert data.class_names == ("zebra", "mole", "ape")
    merged = load_data(Rows(rows([0, 1] * 12).rows, class_to_idx={"cat": 0, "kitten": 0, "dog": 1}))
    assert merged.class_names == ("0", "1")
    assert any("share a label" in note for note in merged.notes)


def test_names_in_an_array_are_names() -> None:
    data = load_data(Rows(rows([0, 1, 2] * 12).rows, classes=np.array(["zebra", "ape", "mole"])))
    assert data.class_names == ("zebra", "ape", "mole")


def test_unicode_forms_are_one_name() -> None:
    name = "café"
    assert checked_names([unicodedata.normalize("NFD", name), "ant"], "it") == (
        unicodedata.normalize("NFC", name),
        "ant",
    )
    with pytest.raises(DataError, match="there twice"):
        checked_names([unicodedata.normalize(form, name) for form in ("NFC", "NFD")], "it")
    with pytest.raises(DataError, match=r"b'caf\\xe9' of it is not UTF-8"):
        checked_names(["caf\udce9"], "it")


@few
@given(names=st.lists(st.text(min_size=1, max_size=4), min_size=2, unique=True), random=st.randoms())
def test_a_label_keeps_its_name(names: list[str], random: Any) -> None:
    wanted = random.sample(names, len(names))
    mapping, note = label_map(names, wanted, given="one", expected="other")
    assert [wanted[label] for label in mapping or range(len(names))] == names
    assert bool(note) == (names != wanted)
    if "x" * 5 not in names:
        with pytest.raises(DataError, match="xxxxx"):
            label_map([*names[:-1], "x" * 5], wanted, given="one", expected="other")


def data_of(*names: str) -> DataSplits:
    """Each class in its own color, numbered in the order of the names."""
    labels = torch.arange(8 * len(names)) % len(names)
    colors = torch.tensor([COLORS[name] for name in names]).float() / 255
    pixels = colors[labels][:, :, None, None].expand(-1, -1, 4, 4).contiguous()
    images = LabeledImages.in_memory(pixels, labels)
    return DataSplits(images, images, images, names)


class Knowing(nn.Module):
    """Always right: it knows the color of each of its classes."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.class_names, self.encoder = names, None
        self.colors = nn.Parameter(torch.tensor([COLORS[name] for name in names]) / 255)

    def forward(self, pixels: Tensor) -> Tensor:
        return -torch.cdist(pixels.mean((2, 3)), self.colors)


def test_evaluation_maps_labels_to_the_models_classes() -> None:
    config = EvaluationConfig(attacks=("noise",), surrogate_samples=4, sample_wise_samples=4, curve=(), checks=False)
    data = data_of("ant", "bee", "cat")
    report = evaluate(Knowing("cat", "ant", "bee"), data, config=config)
    assert next(score for score in report.scores if score.column == "clean").accuracy == 1
    described = report.to_dict()["data"]
    assert described["class_names"] == ["cat", "ant", "bee"]
    assert any("mapped by class name to the hardened model" in note for note in described["notes"])
    with pytest.raises(DataError, match="the hardened model"):
        evaluate(Knowing("cat", "ant", "dog"), data, config=config)
    with pytest.raises(DataError, match="in another order"):
        evaluate(Knowing("cat", "ant", "bee"), data, baseline=Knowing("ant", "bee", "cat"), config=config)


def test_data_is_aligned_to_a_model() -> None:
    data = data_of("ant", "bee", "cat")
    assert aligned(data, None) is data
    assert aligned(data, data.class_names) is data
    assert aligned_to_all(data, {"a function": lambda pixels: pixels}) is data
    turned = aligned(data, ("cat", "ant", "bee"))
    assert shown(turned) == right("ant", "bee", "cat")
    assert turned.fingerprint == aligned(data, ("cat", "ant", "bee")).fingerprint != data.fingerprint
    for wanted, message in (
        (("ant", "bee"), "which the model lacks"),
        (("ant", "bee", "cat", "dog"), "lacks class 'dog'"),
        (("0", "1", "2"), "lacks classes '0', '1', '2'"),
    ):
        with pytest.raises(DataError, match=message):
            aligned(data, wanted)
    unnamed = dataclasses.replace(data, class_names=("0", "1", "2"))
    assert any("taken as positions" in note for note in aligned(unnamed, ("red", "green", "blue")).notes)
    with pytest.raises(DataError, match="lacks class '3'"):
        aligned(unnamed, ("1", "2", "3"))
    numbers = dataclasses.replace(data, class_names=("0", "10", "2"))
    assert aligned(numbers, ("0", "2", "10")).test.labels[:3].tolist() == [0, 2, 1]
