"""The fingerprint covers every image and label, wherever they are kept; batches are the split, a part at a time."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from genaf_sdk.data import DataSplits, LabeledImages, decoding, images, load_data
from genaf_sdk.errors import DataError


def noise(count: int, seed: int = 0, size: int = 4) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def splits(test: Tensor, labels: Tensor | None = None) -> DataSplits:
    own = torch.arange(len(test)) % 2 if labels is None else labels
    other = LabeledImages.in_memory(noise(8, 1), torch.arange(8) % 2)
    return DataSplits(other, other, LabeledImages.in_memory(test, own), ("a", "b"))


def test_every_image_and_label_counts() -> None:
    pixels = noise(700)
    known = splits(pixels).fingerprint
    assert splits(pixels.clone()).fingerprint == known
    assert splits(pixels.float() / 255).fingerprint == known, "how pixels are kept makes no difference"
    for index in (0, 255, 256, 699):
        changed = pixels.clone()
        changed[index, 0, 0, 0] ^= 1
        assert splits(changed).fingerprint != known, index
    assert splits(pixels[torch.randperm(700)]).fingerprint != known
    labels = torch.arange(700) % 2
    labels[650] ^= 1
    assert splits(pixels, labels).fingerprint != known
    data = splits(pixels)
    assert dataclasses.replace(data, class_names=("b", "a")).fingerprint != known
    assert dataclasses.replace(data, interpolation="bicubic").fingerprint != known
    assert dataclasses.replace(data, name="other", notes=("note",)).fingerprint == known
    assert data.describe()["fingerprint"] == known


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for split, first in (("train", 0), ("val", 1000), ("test", 2000)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(9):
                pixels = np.random.default_rng(first + 100 * label + index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    return tmp_path


def test_files_stand_for_themselves_in_memory_and_on_disk(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = load_data(pets)
    path = pets / "test" / "dog" / "3.png"
    assert list(in_memory.test.digests())[12] == hashlib.sha256(path.read_bytes()).digest()
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    on_disk = load_data(pets)
    assert on_disk.test.on_disk
    assert on_disk.fingerprint == in_memory.fingerprint
    assert load_data(pets, image_size=(3, 3)).fingerprint != in_memory.fingerprint
    path.write_bytes(path.read_bytes() + b"\0")
    assert load_data(pets).fingerprint != in_memory.fingerprint


def test_files_are_not_decoded_for_it(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    data = load_data(pets)
    shape = data.image_shape
    monkeypatch.setattr(DataSplits, "image_shape", shape)
    monkeypatch.setattr(decoding, "_read", lambda *_: pytest.fail("an image was decoded"))
    assert len(data.fingerprint) == 64
    for path in pets.rglob("*.png"):
        path.unlink()
    assert data.describe()["fingerprint"] == data.fingerprint, "it is computed once"


def test_a_data_set_has_one_fingerprint_in_memory_and_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pictures(Dataset):
        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return noise(1, index, size=5)[0], index % 2

    in_memory = load_data(Pictures(), image_size=(4, 4))
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 1)
    assert load_data(Pictures(), image_size=(4, 4)).fingerprint == in_memory.fingerprint


class Counting:
    """A reader that keeps count of the images that it gives."""

    def __init__(self) -> None:
        self.most, self.total = 0, 0

    def __call__(self, indices: list[int]) -> Tensor:
        self.most, self.total = max(self.most, len(indices)), self.total + len(indices)
        return torch.tensor(indices, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)

    def identities(self, indices: list[int]) -> None:
        return None


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(("count", "seed"), [(None, None), (None, 3), (40, 3), (7, None)])
def test_batches_are_the_head_a_part_at_a_time(on_disk: bool, count: int | None, seed: int | None) -> None:
    reader = Counting()
    split = LabeledImages(torch.arange(100) % 3, reader, on_disk=on_disk)
    found = list(split.batches(16, count=count, seed=seed))
    assert reader.most <= 16
    assert reader.total == (count or 100)
    pixels, labels = split.sample(count, seed=seed)
    assert torch.cat([batch for batch, _ in found]).equal(pixels)
    assert torch.cat([batch for _, batch in found]).equal(labels)


def test_the_next_batch_alone_is_read_ahead() -> None:
    reader = Counting()
    batches = LabeledImages(torch.arange(100) % 3, reader, on_disk=True).batches(10)
    for given in range(1, 4):
        next(batches)
        assert reader.total <= 10 * (given + 1)


def test_fingerprints_read_a_few_images_at_a_time() -> None:
    reader = Counting()
    split = LabeledImages(torch.arange(250) % 2, reader, on_disk=True)
    assert len(set(split.digests())) == 250
    assert reader.most <= images.DIGESTED


def test_splits_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(3, 5, 5\).*load_data"):
        splits(noise(8, size=5))
    with pytest.raises(DataError, match="one whole number an image"):
        LabeledImages.in_memory(noise(3), torch.tensor([0.0, float("nan"), 1.0]))
    with pytest.raises(DataError, match=r"3 images and labels of shape \(4,\)"):
        LabeledImages.in_memory(noise(3), torch.arange(4))
