"""Batches as they are trained on, and as their accuracy is counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.data import LabeledImages, sampling
from genaf_sdk.engine.accuracy import accuracy
from genaf_sdk.engine.batches import Batch, GlobalBatches, translated
from genaf_sdk.engine.processes import ALONE
from genaf_sdk.models import parts


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_are_moved_by_whole_pixels_and_their_edges_repeated(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    pixels = torch.rand(40, 3, 9, 12).contiguous(memory_format=layout)
    batch = Batch.whole(pixels, torch.zeros(40, dtype=torch.long), key=7)
    moved = translated(batch, 2).inputs
    offsets = batch.integers("shift", (2,), 5)
    padded = F.pad(pixels, (2, 2, 2, 2), mode="replicate")
    crops = [padded[index, :, y : y + 9, x : x + 12] for index, (y, x) in enumerate(offsets.tolist())]
    assert torch.equal(moved, torch.stack(crops))
    assert moved.is_contiguous(memory_format=layout)
    assert len(set(map(tuple, offsets.tolist()))) > 10


@pytest.mark.parametrize(("at_once", "parts_asked"), [(500, [20, 20, 20, 10]), (30, [20, 10, 20, 10, 10])])
def test_an_accuracy_is_counted_in_parts_that_suit_memory_and_the_processor(
    monkeypatch: pytest.MonkeyPatch, at_once: int, parts_asked: list[int]
) -> None:
    class Brightness(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            asked.append(len(pixels))
            return torch.stack([pixels.mean((1, 2, 3)), torch.full((len(pixels),), 0.5)], dim=1)

    asked: list[int] = []
    monkeypatch.setattr(parts, "PIXELS_IN_PART", 64 * 20)
    monkeypatch.setattr(sampling, "MOST_VALUES", 3 * 64 * at_once)
    torch.manual_seed(0)
    pixels = torch.rand(70, 3, 8, 8)
    labels = (pixels.mean((1, 2, 3)) > 0.51).long()
    found = accuracy(Brightness(), LabeledImages.in_memory(pixels, labels), torch.device("cpu"))
    expected = ((pixels.mean((1, 2, 3)) < 0.5) == labels.bool()).float().mean()
    assert found == pytest.approx(float(expected))
    assert asked == parts_asked


def test_an_epoch_shows_every_image_once_and_every_step_has_random_numbers_of_its_own() -> None:
    images = LabeledImages.in_memory(torch.arange(7.0).view(7, 1, 1, 1) / 7, torch.arange(7))
    epochs = GlobalBatches(images, 3, 0, ALONE)
    batches = [batch for epoch in range(3) for batch in epochs.batches(epoch, 0, torch.device("cpu"))]
    assert [batch.total for batch in batches] == [3, 2, 2] * 3
    orders = [torch.cat([batch.labels for batch in batches[3 * epoch : 3 * epoch + 3]]).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({*map(tuple, orders)}) == 3
    assert len({batch.key for batch in batches}) == 9
    (resumed,) = epochs.batches(1, 2, torch.device("cpu"))
    assert (resumed.key, resumed.labels.tolist()) == (batches[5].key, batches[5].labels.tolist())


def test_no_batch_has_one_image() -> None:
    for count in (2, 3, 5):
        images = LabeledImages.in_memory(torch.zeros(count, 1, 1, 1), torch.zeros(count, dtype=torch.long))
        epochs = GlobalBatches(images, 2, 0, ALONE)
        assert min(batch.total for batch in epochs.batches(0, 0, torch.device("cpu"))) >= 2
