"""Training under masks: the certificate's own masks over a share of what another adversary made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training import tiny_model

from genaf_sdk.config import HardenConfig
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.processes import ALONE, Processes
from genaf_sdk.errors import ConfigError
from genaf_sdk.inputs.masks import MaskSet
from genaf_sdk.methods import PGD, Masked, Mixture


def adversary_of(against: Any) -> Any:
    return against.adversary(0, ALONE)


def batch(count: int = 64, key: int = 3) -> Batch:
    pixels = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Batch.whole(pixels, torch.arange(count) % 3, key)


def test_the_color_is_that_of_the_rows_at_hand_where_processes_cut_their_batch(
    tiny_encoder: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gathered(_: Processes, values: torch.Tensor, rows: torch.Tensor, total: int) -> torch.Tensor:
        return values.new_zeros(total, *values.shape[1:]).index_copy(0, rows, values)

    monkeypatch.setattr(Processes, "all_gather_rows", gathered)
    pixels, labels = torch.full((2, 3, 16, 16), 0.8), torch.zeros(2, dtype=torch.int64)
    micro_batch = Batch(pixels, labels, torch.tensor([0, 4]), total=8, processes=Processes(0, 2))
    adversary = adversary_of(Masked(inner=None))
    adversary.perturb(tiny_encoder, micro_batch)
    torch.testing.assert_close(adversary.state()["fill"].flatten(), torch.full((3,), 0.8))


def test_a_share_of_the_images_is_under_masks_of_the_certificate(tiny_encoder: nn.Module) -> None:
    model, given = tiny_model(tiny_encoder).eval(), batch()
    adversary = adversary_of(Masked(inner=None, share=0.5, patch=0.05, masks=3))
    shown = adversary.perturb(model, given)

    fill = adversary.state()["fill"]
    torch.testing.assert_close(fill.flatten(), given.inputs.mean((0, 2, 3)), atol=6e-4, rtol=0)
    masks = MaskSet.for_area((16, 16), 0.05, 3)
    every = [masks.table[one] | masks.table[other] for one, other in masks.pairs.tolist()]
    hidden = (shown == fill).all(dim=1, keepdim=True)
    masked = [index for index in range(64) if bool(hidden[index].any())]
    assert 16 < len(masked) < 48
    for index in range(64):
        if index in masked:
            assert any(torch.equal(hidden[index], mask) for mask in every)
        assert torch.equal(torch.where(hidden[index], given.inputs[index], shown[index]), given.inputs[index])
    assert not torch.equal(hidden, (adversary.perturb(model, batch(key=4)) == fill).all(dim=1, keepdim=True))


def test_of_several_pairs_the_one_of_the_highest_loss_is_taken(tiny_encoder: nn.Module) -> None:
    model, given = tiny_model(tiny_encoder).eval(), batch(count=16)
    masks = MaskSet.for_area((16, 16), 0.05, 3)
    shown = adversary_of(Masked(inner=None, share=1.0, patch=0.05, masks=3, candidates=4)).perturb(model, given)
    fill = torch.round(given.inputs.mean((0, 2, 3)), decimals=3).view(-1, 1, 1)
    purposes = ("mask pairs", "mask pairs 1", "mask pairs 2", "mask pairs 3")
    for row in range(16):
        tried = [masks.pairs[given.integers(purpose, (), len(masks.pairs))[row]] for purpose in purposes]
        images = torch.cat([masks.hide(given.inputs[row : row + 1], pair[None], fill) for pair in tried])
        with torch.no_grad():
            losses = F.cross_entropy(model(images), given.labels[row].repeat(4), reduction="none")
        assert torch.equal(shown[row], images[losses.argmax()])
    one = adversary_of(Masked(inner=None, share=1.0, patch=0.05, masks=3)).perturb(model, given)
    assert not torch.equal(one, shown)


def test_without_a_share_the_other_adversary_is_as_it_was(tiny_encoder: nn.Module) -> None:
    model, given = tiny_model(tiny_encoder).eval(), batch()
    plain, masked = adversary_of(Mixture()), adversary_of(Masked(inner=Mixture(), share=0.0))
    for _ in range(3):
        results = []
        for adversary in (plain, masked):
            images = adversary.perturb(model, given)
            F.cross_entropy(model(images), given.labels).backward()
            adversary.update()
            results.append(images.detach())
        assert torch.equal(*results)
    assert torch.equal(plain.state()["perturbations"], masked.state()["perturbations"])


def test_the_budget_of_the_other_adversary_rises(tiny_encoder: nn.Module) -> None:
    adversary, given = adversary_of(Masked(inner=PGD(epsilon=8 / 255, ramp=0.5), share=0.0)), batch()
    adversary.begin(0.25)
    changed = (adversary.perturb(tiny_model(tiny_encoder).eval(), given) - given.inputs).abs()
    assert float(changed.max()) == pytest.approx(0.5 * 8 / 255, abs=1e-6)


def test_what_was_learned_is_kept_for_a_resumed_run(tiny_encoder: nn.Module) -> None:
    model, given = tiny_model(tiny_encoder).eval(), batch()
    first = adversary_of(Masked(share=0.7))
    F.cross_entropy(model(first.perturb(model, given)), given.labels).backward()
    first.update()
    second = adversary_of(Masked(share=0.7))
    second.load({name: value.clone() for name, value in first.state().items()}, torch.device("cpu"))
    later = batch(key=9)
    assert torch.equal(first.perturb(model, later), second.perturb(model, later))


def test_it_is_chosen_by_its_name_in_a_file_of_settings() -> None:
    content = {"method": {"against": {"name": "masked", "share": 0.25, "inner": {"name": "pgd", "steps": 3}}}}
    config = HardenConfig.from_dict(content)
    against: Any = config.method.against
    assert (against.name, against.share, against.inner.name, against.inner.steps) == ("masked", 0.25, "pgd", 3)
    assert HardenConfig.from_dict(config.to_dict()) == config
    assert HardenConfig().method.against == Mixture(), "masks are an option"
    with pytest.raises(ConfigError, match="masks"):
        Masked(masks=0)
