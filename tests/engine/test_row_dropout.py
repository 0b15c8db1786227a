"""Dropout whose masks follow from the row of the global batch, not from the process that has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.modules import CurrentBatch, RowDropout

WIDTH = 200


def dropped(batch: Batch, *views: Tensor, uses: int = 1) -> list[Tensor]:
    """Return what a layer makes of the views of a batch in one crossing, use after use."""
    current = CurrentBatch()
    layer = RowDropout(nn.Dropout(0.25).train(), 3, current)
    current.batch = batch
    return [layer(torch.cat(views)) for _ in range(uses)]


def whole(count: int = 8) -> Batch:
    return Batch.whole(torch.zeros(count, 1, 1, 1), torch.zeros(count, dtype=torch.long), key=7)


def test_a_quarter_is_dropped_and_the_rest_is_scaled() -> None:
    (made,) = dropped(whole(), torch.ones(8, WIDTH))
    torch.testing.assert_close(made.unique(), torch.tensor([0.0, 4 / 3]))
    assert abs(float((made == 0).float().mean()) - 0.25) < 0.05


def test_rows_keep_their_masks_wherever_they_are_trained() -> None:
    (together,) = dropped(whole(), torch.ones(8, WIDTH))
    for piece in whole().split(3):
        (alone,) = dropped(piece, torch.ones(len(piece.rows), WIDTH))
        assert torch.equal(alone, together[piece.rows])


def test_views_of_an_image_and_uses_of_a_layer_have_masks_of_their_own() -> None:
    ones = torch.ones(8, WIDTH)
    both, again = dropped(whole(), ones, ones, uses=2)
    masks = [*(both == 0).split(8), *(again == 0).split(8), dropped(whole(), ones)[0] == 0]
    assert torch.equal(masks[0], masks[-1]), "the first view has the masks of a batch of one view"
    for index, mask in enumerate(masks[:4]):
        assert not any(torch.equal(mask, other) for other in masks[:index])


def test_in_eval_mode_nothing_is_dropped() -> None:
    current, ones = CurrentBatch(), torch.ones(8, WIDTH)
    current.batch = whole()
    assert torch.equal(RowDropout(nn.Dropout(0.25).eval(), 3, current)(ones), ones)
