"""Universal ascent, against a loop written beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.attacks import SSP, UAPGD, ClusterPatch, ClusterUAP, LabelUAP
from genaf_sdk.attacks.climbing import Climb, climb, settled
from genaf_sdk.attacks.targets import FeatureTarget, LabelTarget, Success, cluster_targets
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.inputs.threat import Linf, Patch


def surrogate(count: int = 32) -> Tensor:
    return torch.rand(count, 3, 10, 10, generator=torch.Generator().manual_seed(0))


def naive_uapgd(encoder: nn.Module, images: Tensor, steps: int, batch: int, budget: float, seed: int) -> Tensor:
    """One long run on InfoNCE, image by image, with the same draws as the attack."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    crafting = order[len(images) // 2 :]
    clean = encoder(images).detach()
    delta = torch.empty(images.shape[1:]).uniform_(-budget, budget, generator=generator)
    mean = torch.zeros_like(delta)

    shuffled = crafting[:0]
    for step in range(steps):
        if len(shuffled) < batch:
            shuffled = crafting[torch.randperm(len(crafting), generator=generator)]
        rows, shuffled = shuffled[:batch], shuffled[batch:]
        variable = delta.clone().requires_grad_()
        moved = images[rows] + variable
        features = encoder(moved + (moved.clamp(0, 1) - moved).detach())
        losses = []
        for i, row in enumerate(rows):
            similar = torch.stack([F.cosine_similarity(features[i], other, dim=0) for other in clean]) / 0.1
            losses.append(similar.logsumexp(0) - similar[row])
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), variable)
        mean = 0.9 * mean + gradient
        delta = (delta + 0.2 * budget * (1 - step / steps) * mean.sign()).clamp(-budget, budget)
    return delta  # the last look keeps within a standard error of the best


def test_agrees_with_the_loop(tiny_encoder: nn.Module) -> None:
    encoder, budget = tiny_encoder.eval().requires_grad_(False), 0.08
    found = UAPGD(budget=budget, steps=4, batch_size=8, goals=0, precision="fp32")(encoder, surrogate(), seed=4)
    expected = naive_uapgd(encoder, surrogate(), 4, 8, budget, 4)
    different = (found.values - expected).abs() > 1e-6
    assert float(different.float().mean()) < 0.01  # the sign of a gradient that is nearly zero


def test_images_are_sent_to_one_place_before_they_are_driven_away(tiny_encoder: nn.Module) -> None:
    encoder = tiny_encoder.eval()
    target = FeatureTarget(encoder, surrogate(), torch.Generator().manual_seed(0))
    goals = target.goals(3, torch.Generator().manual_seed(0))
    assert len(goals) == 3
    for goal in goals:
        torch.testing.assert_close(float(goal.norm()), 1.0)
    rows = torch.arange(4)
    features = F.normalize(encoder(surrogate()[rows]), dim=1)
    torch.testing.assert_close(target.toward(goals[0], surrogate()[rows], rows), (features @ goals[0]).mean())
    assert target.goals(0, torch.Generator()) == []


@pytest.mark.parametrize(("lost", "places"), [(0.4, 3), (0.6, 0)])
def test_places_are_tried_where_pushing_away_loses_few(
    tiny_encoder: nn.Module, monkeypatch: pytest.MonkeyPatch, lost: float, places: int
) -> None:
    goals: list[int] = []

    def toward(self: FeatureTarget, goal: Tensor, attacked: Tensor, indices: Tensor) -> Tensor:
        goals.append(hash(tuple(goal.tolist())))
        return attacked.sum()

    monkeypatch.setattr(FeatureTarget, "success", lambda self, put: Success(lost, 0.0, 16))
    monkeypatch.setattr(FeatureTarget, "toward", toward)
    UAPGD(steps=4, batch_size=8, goals=3)(tiny_encoder.eval(), surrogate())
    assert len(set(goals)) == places


class Colors(nn.Module):
    """Features are the mean colors; blue counts ten times, and no image has any."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2) * torch.tensor([1.0, 1.0, 10.0])


def reds_and_greens(side: int = 4) -> Tensor:
    """Twenty images of one kind, twelve of another."""
    images = torch.zeros(32, 3, side, side)
    images[:20, 0], images[20:, 1] = 0.5, 0.5
    return images + 0.01 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))


def test_images_are_sent_to_another_kind_and_not_to_where_nothing_is() -> None:
    settings = {"budget": 0.3, "batch_size": 8, "precision": "fp32"}
    away = UAPGD(**settings, steps=24)(Colors(), reds_and_greens()).values.flatten(1).mean(1)
    found = ClusterUAP(**settings, steps=24, goals=2)(Colors(), reds_and_greens()).values.flatten(1).mean(1)
    assert away[2] > 0.2  # blue leads furthest away
    assert found[0] * found[1] < -0.04  # from red to green, or back
    assert found[2] < 0.02


def test_how_near_features_come_to_a_kind_is_found_by_a_loop(tiny_encoder: nn.Module) -> None:
    encoder, images = tiny_encoder.eval().requires_grad_(False), surrogate()
    delta = torch.empty(3, 10, 10).uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(1))
    clean, moved = encoder(images), encoder((images + delta).clamp(0, 1))
    targets = cluster_targets(encoder, images, 4, torch.Generator().manual_seed(0))
    arrived_at_all = 0
    for index, target in enumerate(targets):
        arrived, closeness = 0, list[float]()
        for row in target.held_out.tolist():
            before, after = (
                [float(F.cosine_similarity(features[row], center, dim=0)) for center in target.centers]
                for features in (clean, moved)
            )
            arrived += after.index(max(after)) == index != before.index(max(before))
            closeness.append(after[index])
        success = target.success(lambda batch: (batch + delta).clamp(0, 1))
        assert arrived == round(success.rate * len(target.held_out))
        assert success.distance == pytest.approx(sum(closeness) / len(closeness), abs=1e-5)
        climbed = target.objective("cosine", images + delta, torch.arange(len(images)))
        expected = F.cosine_similarity(encoder(images + delta), target.centers[index], dim=1).mean()
        torch.testing.assert_close(climbed, expected)
        arrived_at_all += arrived
    assert len(targets) == 4
    assert arrived_at_all > 0


def test_every_center_is_tried_and_the_likeliest_comes_first(
    tiny_encoder: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([0.1, 0.2, 0.6, 0.3, 0.5, 0.4])

    def climbed(self: ClusterUAP, *_: object) -> tuple[object, object, object]:
        def run(toward: object, begin: Tensor, steps: int, looks: int) -> Climb:
            success = Success(next(given), 0.5, 16)
            return Climb(torch.full((3, 10, 10), success.rate / 100), success, (success,))

        return run, None, lambda: torch.zeros(3, 10, 10)

    monkeypatch.setattr(ClusterUAP, "_runner", climbed)
    tries = ClusterUAP(budget=0.1).tries(tiny_encoder.eval(), surrogate())
    assert [float(found.values.mean()) for found in tries] == pytest.approx([0.006, 0.005, 0.004, 0.003, 0.002, 0.001])


def test_images_of_one_kind_are_judged_by_how_far_they_go(tiny_encoder: nn.Module) -> None:
    encoder = tiny_encoder.eval().requires_grad_(False)
    (target,) = cluster_targets(encoder, surrogate(4), 1, torch.Generator().manual_seed(0))
    plain = FeatureTarget(encoder, surrogate(4), torch.Generator().manual_seed(0))
    assert target.success(lambda batch: batch * 0.5) == plain.success(lambda batch: batch * 0.5)
    (alike,) = ClusterUAP(steps=2, batch_size=2).tries(encoder, surrogate(1).expand(4, -1, -1, -1))[:1]
    assert alike.details["held_out_rate"] <= 1


def test_a_patch_sends_images_to_another_kind() -> None:
    """A third of the image in green makes the red ones green, and the other way round."""
    tries = ClusterPatch(budget=0.6, steps=10, goals=2, batch_size=8, precision="fp32").tries(
        Colors(), reds_and_greens(16)
    )
    means = [(found.values * found.mask).flatten(1).sum(1) / found.mask.sum() for found in tries]
    assert sorted(int(mean[:2].argmax()) for mean in means) == [0, 1]
    assert all(float(mean[2]) < 0.2 for mean in means)
    assert all(found.details["held_out_rate"] > 0.3 for found in tries)


def test_classes_are_tried_by_how_close_they_are_to_images_of_others() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 3)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([0.0, 2.0, 1.0]))
    labels = torch.tensor([0, 1, 2, 0] * 8)
    target = LabelTarget(model, surrogate(), labels, 9.0, torch.Generator().manual_seed(0))
    assert [int(goal) for goal in target.goals(2, torch.Generator())] == [1, 2]
    rows = torch.arange(4)
    expected = model(surrogate()[rows]).log_softmax(1)[[0, 2, 3], 1].mean()  # the second image is of that class
    torch.testing.assert_close(target.toward(torch.tensor(1), surrogate()[rows], rows), expected)


def test_label_uap_is_the_sign_of_the_weights_where_there_are_two_classes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 2)).eval()
    found = LabelUAP(steps=48, batch_size=8)(model, surrogate(), torch.zeros(32).long())
    difference = (model[1].weight[1] - model[1].weight[0]).detach().view(3, 10, 10)
    assert float((found.values * difference).sum()) > 0.98 * float((10 / 255 * difference.abs()).sum())


def test_a_start_is_where_the_first_run_begins_and_is_never_lost(tiny_encoder: nn.Module) -> None:
    encoder, images = tiny_encoder.eval(), surrogate()
    strong = UAPGD(budget=0.2, steps=16, batch_size=8)(encoder, images)
    short = UAPGD(budget=0.2, steps=1, batch_size=16, goals=0, relative_step_size=1e-6)
    continued = short(encoder, images, seed=1, start=strong)
    torch.testing.assert_close(continued.values, strong.values, rtol=0, atol=1e-5)
    target = FeatureTarget(encoder, images, torch.Generator().manual_seed(1))
    assert target.success(continued.apply) > target.success(short(encoder, images, seed=1).apply)


def test_labels_go_on_from_a_start_without_them() -> None:
    torch.manual_seed(0)
    model, labels = nn.Sequential(nn.Flatten(), nn.Linear(300, 2)).eval(), torch.zeros(32).long()
    strong = LabelUAP(steps=48, batch_size=8)(model, surrogate(), labels)
    short = LabelUAP(steps=1, batch_size=8, goals=0, relative_step_size=1e-6)
    torch.testing.assert_close(short(model, surrogate(), labels, start=strong).values, strong.values, rtol=0, atol=1e-5)


def test_attacks_that_cannot_begin_anywhere_do_without_a_start(tiny_encoder: nn.Module) -> None:
    start = Perturbation(torch.zeros(3, 10, 10), Linf(0.1))
    with pytest.raises(AttackError, match=r"\(3, 10, 10\).*\(3, 8, 8\)"):
        UAPGD()(tiny_encoder, surrogate()[..., :8, :8], start=start)
    patch = Perturbation(torch.zeros(3, 10, 10), Patch(0.1), torch.zeros(1, 10, 10))
    short = UAPGD(steps=1, batch_size=16, goals=0)
    alone, beside = (short(tiny_encoder, surrogate(), start=given).values for given in (None, patch))
    assert torch.equal(alone, beside)
    first, second = (
        SSP(steps=3, batch_size=8)(tiny_encoder, surrogate(), start=given).values for given in (None, start)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("rates", "is_settled", "is_converged"),
    [
        ([0.1, 0.5], False, False),
        ([0.1, 0.3, 0.5, 0.7, 0.8, 0.9], False, False),
        ([0.1, 0.8, 0.9, 0.9, 0.905, 0.9], True, True),
        ([0.1, 0.8, 0.88, 0.9, 0.9, 0.912], False, True),  # by less than a standard error
        ([0.1, 0.9, 0.5, 0.4, 0.3, 0.2], True, True),
        ([0.1, 0.5, 0.5, 0.5, 0.5, 0.9], False, False),
    ],
)
def test_convergence_is_read_from_the_curve(rates: list[float], is_settled: bool, is_converged: bool) -> None:
    curve = tuple(Success(rate, 0.0, 400) for rate in rates)
    assert (settled(curve), Climb(torch.zeros(1), max(curve), curve).converged) == (is_settled, is_converged)
    moving = [Success(0.5, distance, 400) for distance in (1.0, 1.1, 1.2, 1.3)]
    assert not settled(moving)


def test_a_climb_ends_early_where_nothing_is_gained() -> None:
    steps = []

    def objective(values: Tensor) -> Tensor:
        steps.append(1)
        return values.sum()

    found = climb(
        objective, lambda _: Success(0.5, 0.0, 400), torch.zeros(3), Linf(0.1), step_size=0.01, steps=100, looks=10
    )
    assert len(steps) == 70  # five looks, and two more of ten steps each
    assert len(found.curve) == 7
    assert found.converged


def test_a_climb_returns_nothing_weaker_than_its_start() -> None:
    start, known = torch.full((3,), 0.05), Success(0.9, 0.0, 400)
    found = climb(
        lambda values: values.sum(),
        lambda _: Success(0.5, 0.0, 400),
        start,
        Linf(0.1),
        step_size=0.1,
        steps=4,
        known=known,
    )
    assert torch.equal(found.values, start)
    assert found.success == known


def test_without_held_out_images_all_are_crafted_on_and_judge() -> None:
    target = LabelTarget(nn.Identity(), torch.zeros(40, 2), torch.zeros(40).long(), 9.0, torch.Generator(), 0.0)
    assert sorted(target.crafting.tolist()) == sorted(target.held_out.tolist()) == list(range(40))
    many = LabelTarget(nn.Identity(), torch.zeros(8000, 2), torch.zeros(8000).long(), 9.0, torch.Generator())
    assert (len(many.crafting), len(many.held_out)) == (7000, 512)


def test_the_margin_is_capped_for_every_image() -> None:
    model = nn.Identity()
    logits = torch.tensor([[0.0, 100.0], [3.0, 1.0]])
    target = LabelTarget(model, torch.zeros(4, 2), torch.zeros(4).long(), 9.0, torch.Generator())
    rows = torch.tensor([0, 1])
    assert target.objective("margin", logits, rows).item() == pytest.approx((5 - 2) / 2)
    expected = (9 + F.cross_entropy(logits[1:], torch.tensor([0])).item()) / 2
    assert target.objective("cross-entropy", logits, rows).item() == pytest.approx(expected)


def test_the_nearest_other_image_is_found_by_a_loop(tiny_encoder: nn.Module) -> None:
    encoder, images = tiny_encoder.eval().requires_grad_(False), surrogate()
    target = FeatureTarget(encoder, images, torch.Generator().manual_seed(0))
    delta = torch.empty(3, 10, 10).uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(1))
    held, clean = target.held_out, encoder(images)
    moved = encoder((images[held] + delta).clamp(0, 1))
    lost = 0
    for i in range(len(held)):
        others = [float(F.cosine_similarity(moved[i], clean[row], dim=0)) for row in held]
        lost += others.index(max(others)) != i
    success = target.success(lambda batch: (batch + delta).clamp(0, 1))
    assert 0 < lost == round(success.rate * len(held))
    assert success.distance == pytest.approx(float((1 - F.cosine_similarity(moved, clean[held])).mean()), abs=1e-6)


def test_the_last_look_is_kept_unless_an_earlier_one_was_better_than_chance() -> None:
    def kept(rates: list[float], known: float | None = None) -> float:
        given = iter(rates)
        start = None if known is None else Success(known, 0.0, 400)
        found = climb(
            lambda values: values.sum(),
            lambda _: Success(next(given), 0.0, 400),
            torch.zeros(3),
            Linf(0.1),
            step_size=0.1,
            steps=len(rates),
            known=start,
        )
        return found.success.rate

    assert kept([0.1, 0.51, 0.5]) == 0.5
    assert kept([0.1, 0.6, 0.5]) == 0.6
    assert kept([0.1, 0.51, 0.5], known=0.505) == 0.51
