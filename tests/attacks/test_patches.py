"""Patches whose best place and pixels are known: on linear models, against loops over every place."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk.attacks import EncoderPatch, ImagePatch, PatchUAP, PlainPatch, placed_patch
from genaf_sdk.attacks.losses import margin_loss
from genaf_sdk.attacks.patch_search import PatchSearch
from genaf_sdk.attacks.targets import FeatureTarget, LabelTarget
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.patches import grid_places, mask_at, paste, patch_sides, places_of, window_gains
from genaf_sdk.inputs.space import InputSpace
from genaf_sdk.inputs.threat import Patch


def linear(seed: int = 0, size: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size, 2)).eval()


def images(model: nn.Module, count: int = 40, size: int = 8) -> tuple[Tensor, Tensor]:
    pixels = 0.3 + 0.4 * torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0))
    return pixels, model(pixels).argmax(1)


def test_places_are_spread_evenly_and_reach_the_edges() -> None:
    assert grid_places((10, 8), (2, 4), 3) == [(top, left) for top in (0, 4, 8) for left in (0, 2, 4)]
    assert grid_places((10, 8), (2, 4), 1) == [(4, 2)]
    assert grid_places((4, 4), (4, 4), 3) == [(0, 0)]
    assert mask_at((4, 5), (2, 3), (1, 2)).sum() == 6


def test_pasting_is_a_loop_over_images() -> None:
    pixels, patches = torch.rand(3, 2, 6, 5), torch.rand(3, 2, 2, 3).requires_grad_()
    places = torch.tensor([[0, 0], [4, 2], [1, 1]])
    pasted = paste(pixels, patches, places)
    expected = pixels.clone()
    for index, (top, left) in enumerate(places.tolist()):
        expected[index, :, top : top + 2, left : left + 3] = patches[index].detach()
    assert torch.equal(pasted.detach(), expected)
    (gradient,) = torch.autograd.grad(pasted.sum(), patches)
    assert torch.equal(gradient, torch.ones_like(patches))


def test_what_a_window_promises_is_a_loop_over_places() -> None:
    pixels, gradient = torch.rand(3, 2, 6, 5), torch.randn(3, 2, 6, 5)
    gains = window_gains(pixels, gradient, (2, 3))
    assert gains.shape == (3, 5, 3)
    for image, top, left in torch.cartesian_prod(torch.arange(3), torch.arange(5), torch.arange(3)).tolist():
        weights, shown = (part[image, :, top : top + 2, left : left + 3] for part in (gradient, pixels))
        best = torch.where(weights > 0, weights * (1 - shown), -weights * shown)
        torch.testing.assert_close(gains[image, top, left], best.sum() / 6)
    assert places_of(torch.tensor([0, 4, 14]), 3).tolist() == [[0, 0], [1, 1], [4, 2]]


def best_place(pixels: Tensor, direction: Tensor, sides: tuple[int, int], places: list[tuple[int, int]]) -> Tensor:
    """Return, for each image and place, by how much the best patch raises the linear score ``direction``; (N, P)."""
    gains = []
    for top, left in places:
        weights = direction[:, top : top + sides[0], left : left + sides[1]]
        window = pixels[:, 0, top : top + sides[0], left : left + sides[1]]
        gains.append((weights.clamp(min=0) - weights * window).sum(dim=(1, 2)))
    return torch.stack(gains, dim=1)


def test_the_universal_patch_lies_where_the_weights_are_and_is_their_sign() -> None:
    model = linear()
    weights = model[1].weight
    weights.data *= 0.01
    weights.data[:] = weights.view(2, 8, 8).mul(1 + 500 * mask_at((8, 8), (2, 2), (6, 3))).flatten(1).detach()
    pixels, _ = images(model)
    found = PatchUAP(budget=4 / 64)(model, pixels, torch.zeros(len(pixels)).long())
    assert (found.details["places"], found.details["loss"]) == ("6,3", "cross-entropy")
    difference = (weights[1] - weights[0]).view(1, 8, 8)
    assert found.mask is not None
    torch.testing.assert_close(found.values, (difference > 0).float() * found.mask)
    assert torch.equal(found.mask, mask_at((8, 8), (2, 2), (6, 3)))


class _Dark(nn.Module):
    """Says 1 where a window of 3 x 3 pixels is all but black, without a gradient that leads there."""

    def forward(self, images: Tensor) -> Tensor:
        window = images[:, 0, 5:8, 9:12].amax(dim=(1, 2))
        one = (window < 0.02).float() + 1e-3 * images.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - one, one], dim=1)


def test_a_black_rectangle_that_no_gradient_leads_to_is_found() -> None:
    pixels = 0.3 + 0.4 * torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    model = _Dark().eval()
    labels = model(pixels).argmax(1)
    assert labels.sum() == 0
    found = PatchUAP(budget=25 / 256)(model, pixels, labels)
    assert (model(found.apply(pixels)).argmax(1) == 1).all()


def test_the_plain_patch_is_the_darkest_or_lightest_square_that_moves_features_most() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 4)).eval()
    weights = 0.001 * torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    weights.view(4, 16, 16)[2, 8:11, 3:6] = 1.0
    encoder[1].weight.data[:] = weights
    encoder[1].bias.data[:] = torch.tensor([5.0, 0.0, 0.0, 0.0])
    pixels = 0.1 + 0.2 * torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = PlainPatch(budget=25 / 256)(encoder, pixels)
    assert found.details["color"] == 1.0
    assert found.mask is not None
    assert bool(found.mask[0, 8:11, 3:6].all())
    assert torch.equal(found.values, found.mask)


def test_what_ranks_places_follows_the_share_of_misclassified_images() -> None:
    """Two patches: one loses every fourth image by far, the other a half of them by little."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
    model[1].weight.data[:] = torch.tensor([[-1.0], [1.0]])
    model[1].bias.data.zero_()
    pixels, labels = torch.zeros(256, 1, 1, 1), torch.zeros(256).long()
    target = LabelTarget(model, pixels, labels, 9.0, torch.Generator().manual_seed(0))
    count = len(target.held_out)

    def shifted(share: float, by: float) -> Tensor:
        return (torch.arange(count) < share * count).view(-1, 1, 1, 1) * (by + 3.0) - 3.0

    far, near = (
        target.success(lambda images, add=add: images + add) for add in (shifted(0.25, 4.5), shifted(0.5, 0.5))
    )
    assert (far.rate, near.rate) == (0.25, 0.5)
    assert near.distance > far.distance


@pytest.mark.parametrize("patches", [2, 4])
def test_several_rectangles_share_the_area(patches: Literal[2, 4]) -> None:
    model = linear()
    pixels, labels = images(model)
    found = PatchUAP(budget=12 / 64, patches=patches, steps=5)(model, pixels, labels)
    rows, columns = patch_sides(8, 8, 12 / 64 / patches)
    assert found.mask is not None
    assert int(found.mask.sum()) == patches * rows * columns <= 12
    with pytest.raises(AttackError, match="no place for 4 rectangles"):
        PatchUAP(budget=1.0, patches=4, steps=5)(model, pixels, labels)


def test_the_patch_moves_off_the_grid_to_where_the_weights_are() -> None:
    model = linear(size=24)
    model[1].weight.data *= 0.01
    model[1].weight.data[:] = (
        model[1].weight.view(2, 24, 24).mul(1 + 500 * mask_at((24, 24), (8, 8), (6, 2))).flatten(1).detach()
    )
    pixels, _ = images(model, size=24)
    labels = torch.zeros(len(pixels)).long()
    found = PatchUAP(budget=64 / 576)(model, pixels, labels)  # the grid is at 0, 8 and 16
    assert (6, 2) not in grid_places((24, 24), (8, 8), 3)
    top, left = map(int, str(found.details["places"]).split(","))
    assert abs(top - 6) <= 2
    assert abs(left - 2) <= 2
    stays = PatchUAP(budget=64 / 576, grid=1, shift=0.1, steps=20)(model, pixels, labels)
    assert stays.mask is not None
    assert int(stays.mask.sum()) == 64


def test_a_patch_is_tried_nowhere_beyond_an_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tried = linear(), list[tuple[int, int]]()
    weights = torch.zeros(2, 8, 8)
    weights[1, 0, 0] = 1.0
    model[1].weight.data[:] = weights.flatten(1)

    def noting(image: tuple[int, int], sides: tuple[int, int], place: tuple[int, int]) -> Tensor:
        tried.append(place)
        return mask_at(image, sides, place)

    monkeypatch.setattr(placed_patch, "mask_at", noting)
    found = PatchUAP(budget=9 / 64, grid=3, steps=2)(model, *images(model))
    assert found.details["places"] == "0,0"
    assert (min(min(place) for place in tried), max(max(place) for place in tried)) == (0, 5)


def test_a_shifted_patch_stays_in_the_image() -> None:
    model = linear()
    pixels, labels = images(model)
    found = PatchUAP(budget=9 / 64, shift=0.25, steps=8)(model, pixels, labels)
    assert found.mask is not None
    assert int(found.mask.sum()) == 9
    rows, columns = (torch.nonzero(found.mask[0].any(dim=axis)).flatten() for axis in (1, 0))
    assert len(rows) == len(columns) == 3  # one rectangle, which nothing has wrapped around an edge


def test_a_patch_that_is_displaced_goes_around_no_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shown, apply = linear(), set[tuple[int, ...]](), Patch.apply
    weights = torch.zeros(2, 8, 8)
    weights[1, 0, 0] = 1.0
    model[1].weight.data[:] = weights.flatten(1)

    def noting(patch: Patch, space: InputSpace, inputs: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        assert mask is not None
        inside = torch.nonzero(mask[0])
        shown.add((*inside.amin(dim=0).tolist(), *(inside.amax(dim=0) - inside.amin(dim=0) + 1).tolist()))
        return apply(patch, space, inputs, values, mask)

    monkeypatch.setattr(Patch, "apply", noting)
    PatchUAP(budget=9 / 64, shift=0.25, grid=2, steps=8)(model, *images(model))
    assert {tuple(sides) for _, _, *sides in shown} == {(3, 3)}
    assert {(0, 0), (1, 2), (5, 5)} <= {(top, left) for top, left, *_ in shown}


def test_a_patch_that_is_given_is_never_lost() -> None:
    model = linear(2)
    pixels, labels = images(model)
    strong = PatchUAP(budget=9 / 64)(model, pixels, labels, seed=1)
    weak = PatchUAP(budget=9 / 64, grid=1, scout_steps=1, steps=1, step_size=1e-6)
    target = LabelTarget(model, pixels, labels, 9.0, torch.Generator().manual_seed(0))
    begun, alone = weak(model, pixels, labels, start=strong), weak(model, pixels, labels)
    assert target.success(begun.apply) >= target.success(strong.apply) > target.success(alone.apply)
    fooled = model(strong.apply(pixels)).argmax(1) != labels
    each = ImagePatch(budget=9 / 64, grid=1, windows=1, scout_steps=1, steps=1, step_size=1e-6)
    own = model(each(model, pixels, labels, start=strong)).argmax(1) != labels
    assert bool(own[fooled].all())
    assert int(fooled.sum()) > int((model(each(model, pixels, labels)).argmax(1) != labels).sum())
    with pytest.raises(AttackError, match="start"):
        each.with_budget(4 / 64)(model, pixels, labels, start=strong)


def test_a_patch_of_its_own_fools_exactly_the_images_that_some_place_allows() -> None:
    model = linear(3)
    pixels, labels = images(model)
    model[1].bias.data += torch.tensor([0.0, 0.25])  # so that some images cannot be fooled at any place
    labels = model(pixels).argmax(1)
    sides, budget = (3, 3), 9 / 64
    places = grid_places((8, 8), sides, 4)
    weights = (model[1].weight[1] - model[1].weight[0]).view(1, 8, 8).detach()
    sign = (1 - 2 * labels)[:, None, None]
    gains = best_place(pixels, sign * weights, sides, places).amax(dim=1)
    possible = margin_loss(model(pixels), labels).detach() + gains > 1e-2
    impossible = margin_loss(model(pixels), labels).detach() + gains < 0
    adversarial = ImagePatch(budget=budget, grid=4, finalists=16, walk=0)(model, pixels, labels)
    fooled = model(adversarial).argmax(1) != labels
    assert 5 < int(possible.sum()) < 40
    assert bool(fooled[possible].all())
    # The windows of the largest gradient lie off the grid and may do more than it.
    everywhere = [(top, left) for top in range(6) for left in range(6)]
    most = best_place(pixels, sign * weights, sides, everywhere).amax(dim=1)
    assert not bool(fooled[impossible & (margin_loss(model(pixels), labels) + most < 0)].any())
    changed = (adversarial != pixels).any(dim=1).flatten(1).sum(dim=1)
    assert int(changed.max()) <= 9
    wrong = labels.clone()
    wrong[0] = 1 - wrong[0]
    assert torch.equal(ImagePatch(budget=budget)(model, pixels, wrong)[0], pixels[0])  # wrong already: left alone


def test_the_windows_are_where_the_gradient_is() -> None:
    model = linear()
    model[1].weight.data[:] = (model[1].weight.view(2, 8, 8) * mask_at((8, 8), (3, 3), (4, 2))).flatten(1).detach()
    pixels, labels = images(model, 5)
    search = PatchSearch(model, pixels, labels, (3, 3), Patch(9 / 64))
    first, second = search.windows(2).unbind(1)
    assert first.tolist() == [[4, 2]] * 5
    assert int((first - second).abs().amax(dim=1).min()) >= 1  # another place


def test_a_walking_patch_finds_the_place() -> None:
    model = linear()
    far = (torch.arange(8) - 5)[:, None] ** 2 + (torch.arange(8) - 3)[None] ** 2  # from the middle of that place
    model[1].weight.data[:] = 0.01 * torch.tensor([[-1.0], [1.0]]) / (1 + far.flatten())
    model[1].bias.data[:] = torch.tensor([10.0, 0.0])
    pixels, labels = images(model, 5)
    search = PatchSearch(model, pixels, labels, (3, 3), Patch(9 / 64))
    rows, begin = torch.arange(5), torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[2, 0]]).repeat(5, 1)
    _, stayed, low = search.climb(rows, begin, places, [0.2] * 30)
    _, walked, high = search.climb(rows, begin, places, [0.2] * 30, walk=5)
    assert torch.equal(stayed, places)
    assert walked.tolist() == [[4, 2]] * 5
    assert bool((high > low).all())


def test_a_walking_patch_stays_in_the_image() -> None:
    """Opposite edges promise most, and half of a patch beyond one of them would lie at the other."""
    model = linear()
    weights = torch.zeros(2, 8, 8)
    weights[1, [0, 7]] = weights[1, :, [0, 7]] = 0.01
    model[1].weight.data[:] = weights.flatten(1)
    model[1].bias.data[:] = torch.tensor([10.0, 0.0])
    pixels, labels = images(model, 4)
    search = PatchSearch(model, pixels, labels, (3, 3), Patch(9 / 64))
    places = torch.tensor([[0, 0], [0, 5], [5, 0], [5, 5]])
    _, walked, _ = search.climb(torch.arange(4), torch.ones(4, 1, 3, 3), places, [0.2] * 3, walk=1)
    assert (int(walked.min()), int(walked.max())) == (0, 5)


def test_what_a_search_found_is_not_lost_to_what_is_worse() -> None:
    model = linear()
    model[1].weight.data[:] = (model[1].weight.view(2, 8, 8) * mask_at((8, 8), (3, 3), (4, 2))).flatten(1).detach()
    model[1].bias.data[:] = torch.tensor([10.0, 0.0])
    pixels, labels = images(model, 5)
    search = PatchSearch(model, pixels, labels, (3, 3), Patch(9 / 64))
    rows, begin = torch.arange(5), torch.full((5, 1, 3, 3), 0.5)
    search.climb(rows, begin, torch.tensor([[4, 2]]).repeat(5, 1), [0.2] * 10)
    best = search.results.clone()
    search.climb(rows, begin, torch.tensor([[0, 5]]).repeat(5, 1), [0.2])
    assert torch.equal(search.results, best)
    torch.testing.assert_close(search.margins, margin_loss(model(best), labels))


def test_the_label_free_patch_moves_features_and_beats_a_random_one(tiny_encoder: nn.Module) -> None:
    encoder = tiny_encoder.eval()
    surrogate = torch.rand(24, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    found = EncoderPatch(budget=0.12, steps=20, batch_size=8)(encoder, surrogate)
    assert found.mask is not None
    random = torch.rand(found.values.shape, generator=torch.Generator().manual_seed(1)) * found.mask
    target = FeatureTarget(encoder, surrogate, torch.Generator().manual_seed(5))
    strong = target.success(found.apply)
    weak = target.success(lambda batch: batch * (1 - found.mask) + random)
    assert strong.distance > 2 * weak.distance


def test_places_apart_from_one_another_are_climbed_at() -> None:
    """Features move most on the left: the first of two tries lies there, as the only one does, the second beside it."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(8 * 24, 2, bias=False)).eval()
    weights = torch.zeros(2, 8, 24)
    weights[0, 2:6, 1:7], weights[1] = 1.0, 0.01
    encoder[1].weight.data[:] = weights.flatten(1)
    surrogate = 0.2 * torch.rand(40, 1, 8, 24, generator=torch.Generator().manual_seed(0))
    one, tries = (
        EncoderPatch(budget=16 / 192, steps=4, finalists=finalists).tries(encoder, surrogate) for finalists in (1, 2)
    )
    assert len(one) == 1
    columns = [int(str(found.details["places"]).split(",")[1]) for found in (*one, *tries)]
    assert [column < 8 for column in columns] == [True, True, False], columns
    masks = [found.mask for found in tries]
    assert masks[0] is not None
    assert masks[1] is not None
    assert bool((masks[0] + masks[1] <= 1).all())
    several = EncoderPatch(budget=32 / 192, steps=2, finalists=2, patches=2).tries(encoder, surrogate)
    assert [str(found.details["places"]).count(",") for found in several] == [2, 2]


def test_success_counts_images_that_were_not_crafted_on() -> None:
    model = linear()
    pixels, labels = images(model)
    target = LabelTarget(model, pixels, labels, 9.0, torch.Generator().manual_seed(0))
    assert sorted(target.held_out.tolist() + target.crafting.tolist()) == list(range(40))
    assert len(target.held_out) == 20  # half, as 128 would be too many
    flipped = target.success(lambda batch: 1 - batch)
    held = target.held_out
    assert flipped.rate == pytest.approx(float((model(1 - pixels[held]).argmax(1) != labels[held]).float().mean()))
    assert target.success(lambda batch: batch).rate == 0.0


def test_the_place_is_where_images_move_farthest_not_where_most_lie_near_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def outcome(target: FeatureTarget, attacked: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        left = (attacked != target.images[indices])[..., :3].flatten(1).any(dim=1)
        return left, torch.where(left, 0.1, 0.5)  # on the left all are lost, but hardly moved

    model = linear()
    pixels, _ = images(model)
    monkeypatch.setattr(FeatureTarget, "outcome", outcome)
    found = EncoderPatch(budget=4 / 64, steps=2)(model, pixels)
    assert int(str(found.details["places"]).split(",")[1]) >= 3
