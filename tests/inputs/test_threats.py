"""Spaces and threats: what is valid, what is allowed, and the bits of both."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from genaf_sdk.errors import AttackError, DataError
from genaf_sdk.inputs.images import ImageSpace, image_space, input_space
from genaf_sdk.inputs.patches import mask_at, patch_sides
from genaf_sdk.inputs.threat import THREATS, Linf, Patch, Threat, threat_from


def test_adding_clips_but_lets_the_gradient_through() -> None:
    pixels = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    delta = torch.tensor([-0.1, 0.1, 0.1]).view(1, 1, 3).requires_grad_()
    images = image_space(pixels).add(pixels, delta)
    torch.testing.assert_close(images.detach().flatten(), torch.tensor([0.0, 0.6, 1.0]))
    (gradient,) = torch.autograd.grad(images.sum(), delta)
    assert torch.equal(gradient, torch.ones(1, 1, 3))


def test_a_model_may_state_its_space_and_other_images_are_refused() -> None:
    model, images = nn.Identity(), torch.rand(2, 3, 4, 5)
    assert input_space(model, images) == ImageSpace((3, 4, 5))
    model.space = ImageSpace((3, 8, 8))
    with pytest.raises(AttackError, match=r"\(3, 4, 5\).*\(3, 8, 8\)"):
        input_space(model, images).check(images, "an attack")


@pytest.mark.parametrize(
    "bad", [torch.rand(3, 4, 5), torch.rand(0, 3, 4, 5), torch.zeros(2, 3, 4, 5).long(), 2 + torch.rand(2, 3, 4, 5)]
)
def test_what_is_no_batch_of_images_is_refused_by_the_error_of_the_caller(bad: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"the loader was given"):
        image_space(bad).check(bad, "the loader", DataError)


def test_nan_is_no_pixel() -> None:
    images = torch.full((1, 1, 2, 2), torch.nan)
    with pytest.raises(AttackError, match="nan"):
        image_space(images).check(images, "an attack")


def test_arranged_keeps_the_values_and_brings_the_channels_of_a_pixel_together() -> None:
    images = torch.rand(2, 3, 4, 5)
    arranged = image_space(images).arranged(images)
    assert torch.equal(arranged, images)
    assert arranged.stride()[1] == 1
    conv = image_space(images).placed(nn.Conv2d(3, 4, 2))
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.stride()[1] == 1


@pytest.mark.parametrize("size", [0, -0.1, 1.5, math.nan, math.inf, True, "8/255", None])
@pytest.mark.parametrize("kind", [Linf, Patch])
def test_a_size_that_is_no_share_is_refused(kind: type[Threat], size: object) -> None:
    with pytest.raises(AttackError, match="budget"):
        kind(size)  # type: ignore[arg-type]
    with pytest.raises(AttackError, match=r"budget|threat"):
        threat_from({"kind": kind.kind, "size": size})


@pytest.mark.parametrize("content", [None, [], {}, {"kind": "l2", "size": 0.1}, {"kind": ["linf"], "size": 0.1}])
def test_an_unknown_threat_is_refused(content: object) -> None:
    with pytest.raises(AttackError, match="threat"):
        threat_from(content)


@pytest.mark.parametrize("threat", [Linf(10 / 255), Patch(0.03)])
def test_a_threat_is_read_as_it_was_written(threat: Threat) -> None:
    assert threat_from(threat.to_dict()) == threat
    assert type(threat_from(threat.to_dict())) is type(threat)


def test_sizes_are_written_as_people_do() -> None:
    assert Linf(10 / 255).text() == "10/255"
    assert Patch(0.03).text() == "3.0% of the area"
    assert Linf(0.1) != Patch(0.1)


def test_the_two_forms_of_the_ball_are_kept_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = 0.1 * torch.rand(50, 3, 8, 8, generator=generator)
    moved = inputs * torch.rand(inputs.shape, generator=generator)  # finer bits than those of the difference
    ball, space = Linf(8 / 255), image_space(inputs)
    box = ball.project_inputs(space, moved, inputs)
    assert torch.equal(box, torch.clamp(moved, inputs - 8 / 255, inputs + 8 / 255).clamp(0, 1))
    around = space.clip(inputs + ball.project(moved - inputs))
    assert torch.equal(around, (inputs + (moved - inputs).clamp(-8 / 255, 8 / 255)).clamp(0, 1))
    torch.testing.assert_close(box, around, rtol=0, atol=1e-7)
    assert not torch.equal(box, around)
    low, high = ball.box(space, inputs)
    assert bool(((low <= around + 1e-6) & (around <= high + 1e-6)).all())


@pytest.mark.parametrize("kind", THREATS.values())
def test_a_start_is_allowed_and_a_step_goes_up_and_stays_allowed(kind: type[Threat]) -> None:
    threat, like = kind(0.25), torch.zeros(3, 6, 6)
    start = threat.start(like, torch.Generator().manual_seed(0))
    assert torch.equal(threat.project(start), start)
    assert start.std() > 0.1
    gradient = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1))
    moved = threat.ascend(start, gradient, 0.01)
    assert torch.equal(threat.project(moved), moved)
    assert float(((moved - start) * gradient).sum()) > 0
    far = threat.ascend(start, gradient, 10.0)
    corner = 0.25 * gradient.sign() if kind is Linf else (gradient > 0).float()
    torch.testing.assert_close(far, corner)


def test_a_patch_replaces_what_its_mask_covers_and_nothing_else() -> None:
    inputs, values, mask = torch.rand(2, 3, 4, 4), torch.rand(3, 4, 4), torch.zeros(1, 4, 4)
    mask[:, :2, :2] = 1
    patched = Patch(0.25).apply(image_space(inputs), inputs, values, mask)
    assert torch.equal(patched[:, :, :2, :2], values[:, :2, :2].expand(2, -1, -1, -1))
    assert torch.equal(patched[:, :, 2:], inputs[:, :, 2:])
    with pytest.raises(AttackError, match="mask"):
        Patch(0.25).apply(image_space(inputs), inputs, values)


@pytest.mark.parametrize("size", [96, 112, 224])
def test_a_budget_of_exactly_so_many_pixels_suffices_for_them(size: int) -> None:
    rows, columns = 7, 11
    area = rows * columns / size**2
    mask = mask_at((size, size), (rows, columns), (3, 5))
    Patch(area).check(torch.zeros(3, size, size), mask)
    images = torch.full((1, 3, size, size), 0.5)
    Patch(area).project_inputs(image_space(images), images + mask, images)
    assert patch_sides(size, size, area)[0] * patch_sides(size, size, area)[1] <= rows * columns


def test_a_sample_wise_patch_that_changes_too_much_is_refused() -> None:
    inputs = torch.rand(2, 3, 4, 4)
    moved = inputs.clone()
    moved[1, 0, :2, :2] = 2.0
    held = Patch(0.25).project_inputs(image_space(inputs), moved, inputs)
    assert torch.equal(held, moved.clamp(0, 1))
    with pytest.raises(AttackError, match=r"25\.00%"):
        Patch(0.24).project_inputs(image_space(inputs), moved, inputs)


@pytest.mark.parametrize("size", [(32, 32), (20, 14), (224, 224), (7, 90), (65, 33)])
@pytest.mark.parametrize("area", [0.03, 0.3, 1.0])
def test_sides_use_the_area_and_never_more(size: tuple[int, int], area: float) -> None:
    rows, columns = patch_sides(*size, area)
    assert rows <= size[0]
    assert columns <= size[1]
    assert 0.65 * area < rows * columns / (size[0] * size[1]) <= area
    with pytest.raises(AttackError, match="smaller than a pixel"):
        patch_sides(5, 5, 0.03)
