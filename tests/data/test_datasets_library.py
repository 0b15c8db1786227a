"""Objects of the library ``datasets`` as they are; with the library where it is installed, else with its outlines."""

from __future__ import annotations

import io
import sys
from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from genaf_sdk.data import load_data
from genaf_sdk.errors import DataError


class Column:
    """A column's type: ``datasets.Image``, ``datasets.ClassLabel`` or a plain value."""

    def __init__(self, names: list[str] | None = None, dtype: str = "int64", decode: bool = True) -> None:
        self.names, self.dtype, self.decode = names, dtype, decode


class ImageColumn(Column):
    pass


class ClassLabel(Column):
    pass


class Rows:
    """What is used of ``datasets.Dataset``."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Column], kind: str | None = None) -> None:
        self.columns, self.features = columns, features
        self.format, self.info = {"type": kind}, SimpleNamespace(dataset_name="pets")

    def cast_column(self, name: str, feature: Column) -> Rows:
        return Rows(self.columns, {**self.features, name: feature})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        row = {name: values[key] for name, values in self.columns.items()}
        for name, feature in self.features.items():
            if isinstance(feature, ImageColumn) and feature.decode:
                assert self.format["type"] is not None, "the library's own decoder takes any format and size"
                row[name] = torch.full((3, 4, 4), key, dtype=torch.uint8)
        return row


class RowsDict(UserDict):
    pass


class IterableRows:
    pass


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    outlines = SimpleNamespace(
        Dataset=Rows, DatasetDict=RowsDict, IterableDataset=IterableRows, Image=ImageColumn, ClassLabel=ClassLabel
    )
    monkeypatch.setitem(sys.modules, "datasets", outlines)


def picture(shade: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 10, 200)).save(stream, kind)
    return stream.getvalue()


def rows(count: int, names: tuple[str, ...] | None = ("ant", "bee"), first: int = 0, **options: Any) -> Rows:
    stored = [{"bytes": picture(first + index), "path": None} for index in range(count)]
    label = Column() if names is None else ClassLabel(list(names))
    labels = [index % 2 for index in range(count)]
    return Rows({"image": stored, "label": labels}, {"image": ImageColumn(), "label": label}, **options)


def test_one_object_is_split() -> None:
    data = load_data(rows(24))
    assert data.name == "pets"
    assert data.class_names == ("ant", "bee")
    assert sum(len(split) for split in data.splits().values()) == 24
    assert load_data(rows(24, None)).class_names == ("0", "1")


def test_several_objects_are_joined_by_class_name() -> None:
    data = load_data((rows(24), rows(12, ("bee", "ant"), first=100)))
    assert [data.class_names[label] for label in data.test.labels[:2].tolist()] == ["bee", "ant"]
    with pytest.raises(DataError, match="class 'wasp'"):
        load_data((rows(24), rows(12, ("ant", "wasp"), first=100)))


def test_a_dict_of_splits_is_taken_in_usual_spellings() -> None:
    data = load_data(RowsDict({"Training": rows(24), "valid": rows(6, first=50), "test": rows(8, first=80)}))
    assert [len(split) for split in data.splits().values()] == [24, 6, 8]


def test_an_unlabelled_test_split_is_told() -> None:
    hidden = rows(8, first=80)
    hidden.columns["label"] = [-1] * 8
    data = load_data(RowsDict({"train": rows(24), "validation": rows(6, first=50), "test": hidden}))
    assert len(data.test) == 6
    assert any("'test' is unlabeled: its 8 images" in note for note in data.notes)


def test_a_format_of_the_users_own_decides_what_an_item_is() -> None:
    data = load_data(rows(24, kind="torch"))
    assert data.class_names == ("ant", "bee")
    shades = {int(pixels[0, 0, 0] * 255) for split in data.splits().values() for pixels, _ in split}
    assert shades == set(range(24))


def test_pictures_are_decoded_here_in_known_formats_alone() -> None:
    given = rows(24)
    given.columns["image"][5] = {"bytes": picture(5, "GIF"), "path": None}
    given.columns["image"][6] = {"bytes": None, "path": "/nowhere/6.png"}
    given.columns["image"][7] = None
    with pytest.raises(DataError, match=r"3 of 24 .*row 5 of 'pets' \(no image\).*row 6 of .*No such file.*row 7 of"):
        load_data(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (IterableRows(), "is a stream.*without streaming=True"),
        (RowsDict({"test": rows(8)}), "a split named 'train'"),
        (Rows({"label": [0]}, {"label": ClassLabel(["a"])}), r"image columns \[\]"),
        (Rows({"image": [0], "kind": ["a"]}, {"image": ImageColumn(), "kind": Column(dtype="string")}), "class_encode"),
        (RowsDict({"train": rows(8), "test": rows(8, ("bee", "ant"))}), "name the classes"),
        ((RowsDict({"train": rows(8), "test": rows(8)}), rows(8)), "splits of its own"),
    ],
)
def test_what_cannot_be_used_is_refused(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(given)
