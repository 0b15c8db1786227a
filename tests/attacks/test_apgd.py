"""APGD against the paper's formulas, a loop written from its Algorithm 1, and another package."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.attacks import ApgdCE, ApgdT
from genaf_sdk.attacks.apgd import apgd, checkpoints
from genaf_sdk.attacks.apgd_t import targeted_dlr
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.threat import Linf


@pytest.mark.parametrize(
    ("steps", "expected"), [(100, [22, 41, 57, 70, 80, 87, 93, 99]), (10, [3, 5, 6, 7, 8, 9, 10]), (1, [1])]
)
def test_checkpoints_of_the_paper(steps: int, expected: list[int]) -> None:
    assert checkpoints(steps) == expected


def test_targeted_dlr_is_the_papers_equation() -> None:
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0, 0.0], [0.0, 4.0, 1.0, 2.0, 3.0]])
    # sorted: 5 3 2 1 0 and 4 3 2 1 0; both denominators are z1 - (z3 + z4) / 2
    expected = torch.tensor([-(5 - 1) / (5 - 1.5), -(1 - 4) / (4 - 1.5)])
    torch.testing.assert_close(targeted_dlr(logits, torch.tensor([0, 2]), torch.tensor([1, 1])), expected)
    scaled = targeted_dlr(100 * logits + 7, torch.tensor([0, 2]), torch.tensor([1, 1]))
    torch.testing.assert_close(scaled, expected)


def smooth_net(classes: int = 5, scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 16), nn.Tanh(), nn.Linear(16, classes)
    )
    net[-1].weight.data *= scale
    return net.eval()


def naive_apgd(model: nn.Module, x: Tensor, label: Tensor, start: Tensor, budget: float, steps: int) -> Tensor:
    """Algorithm 1 for one image, with the paper's names: f the loss, eta the step size, w the checkpoints."""

    def f(image: Tensor) -> tuple[float, Tensor]:
        image = image.clone().requires_grad_()
        loss = F.cross_entropy(model(image[None]), label[None])
        return loss.item(), torch.autograd.grad(loss, image)[0]

    def project(image: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(image, x - budget), x + budget).clamp(0, 1)

    p, w = [0.0, 0.22], []
    while p[-1] <= 1:
        w.append(math.ceil(round(p[-1] * steps, 9)))
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    eta, current = 2 * budget, project(x + start)
    value, gradient = f(current)
    x_max, f_max, g_max, f_max_before, halved_before = current, value, gradient, value, True
    previous, rises, last = current, 0, 0
    for k in range(1, steps + 1):
        z = project(current + eta * gradient.sign())
        moved = z if k == 1 else project(current + 0.75 * (z - current) + 0.25 * (current - previous))
        previous, current = current, moved
        new, gradient = f(current)
        rises += new > value
        value = new
        if value > f_max:
            x_max, f_max, g_max = current, value, gradient
        if k in w:
            condition_1 = rises <= 0.75 * (k - last)
            condition_2 = not halved_before and f_max <= f_max_before
            halved_before = condition_1 or condition_2
            if halved_before:
                eta, current, value, gradient = eta / 2, x_max, f_max, g_max
            f_max_before, rises, last = f_max, 0, k
    return x_max


def test_agrees_with_a_loop_over_algorithm_1() -> None:
    model, budget, steps = smooth_net(), 0.03, 40
    torch.manual_seed(1)
    pixels = torch.rand(4, 3, 8, 8)
    labels = model(pixels).argmax(1)
    start = torch.empty(pixels.shape).uniform_(-1, 1, generator=torch.Generator().manual_seed(5))
    start = budget * start / start.abs().amax(dim=(1, 2, 3), keepdim=True)
    # The labels' logit is raised out of reach, so that no image is done early.
    model[-1].bias.data += 50 * F.one_hot(labels, 5).float().amax(0)
    keep = model(pixels).argmax(1) == labels
    results, fooled = apgd(
        model,
        pixels,
        labels,
        lambda logits, index: F.cross_entropy(logits, labels[index], reduction="none"),
        ball=Linf(budget),
        steps=steps,
        generator=torch.Generator().manual_seed(5),
    )
    compared = 0
    for i in torch.nonzero(keep & ~fooled).flatten().tolist():
        torch.testing.assert_close(results[i], naive_apgd(model, pixels[i], labels[i], start[i], budget, steps))
        compared += 1
    assert compared >= 2


class Counting(nn.Module):
    """Counts the images that it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.images += len(pixels)
        return self.model(pixels)


@pytest.mark.parametrize("attack", [ApgdCE(budget=0.5, steps=50, restarts=3), ApgdT(budget=0.5, steps=50)])
def test_images_already_fooled_cost_nothing_more(attack: ApgdCE | ApgdT) -> None:
    model = Counting(smooth_net(scale=3.0))
    pixels = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = model(pixels).argmax(1)
    labels[0] = (labels[0] + 1) % 5  # wrong from the start: to be left alone
    model.images = 0
    adversarial = attack(model, pixels, labels)
    assert torch.equal(adversarial[0], pixels[0])
    assert bool((model(adversarial).argmax(1) != labels).all())
    assert model.images < 6 * 50 / 2


def test_an_image_that_one_attempt_fools_is_left_out_of_the_next() -> None:
    model = Counting(smooth_net(scale=3.0))
    pixels = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels, asked = model(pixels).argmax(1), list[int]()
    for restarts in (1, 3):
        model.images = 0
        found = ApgdCE(budget=0.5, steps=50, restarts=restarts)(model, pixels, labels)
        asked.append(model.images)
        assert bool((model(found).argmax(1) != labels).all())
    assert asked[0] == asked[1]


class Bright(nn.Module):
    """Says 1 of images whose mean is above 0.55."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([torch.full_like(mean, 0.55), mean], dim=1)


def test_an_image_that_is_fooled_as_the_loss_falls_is_not_taken_back() -> None:
    """Its step size is halved in that very step, where others go back to the image of the highest loss."""
    losses = iter([1.0, 0.0])
    pixels = torch.full((1, 3, 4, 4), 0.5)
    found, fooled = apgd(
        Bright(),
        pixels,
        torch.zeros(1, dtype=torch.long),
        lambda logits, _: next(losses) + logits[:, 1] - logits[:, 1].detach(),
        ball=Linf(0.1),
        steps=1,
        generator=torch.Generator().manual_seed(0),
    )
    assert bool(fooled.all())
    assert Bright()(found).argmax(1).tolist() == [1]


def test_apgd_t_fools_what_saturated_logits_hide_from_cross_entropy() -> None:
    model = smooth_net(scale=3.0)
    hidden = nn.Sequential(model, Scale(1e4))
    pixels = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = model(pixels).argmax(1)
    plain = int((model(ApgdT(steps=20)(model, pixels, labels)).argmax(1) == labels).sum())
    scaled = int((hidden(ApgdT(steps=20)(hidden, pixels, labels)).argmax(1) == labels).sum())
    assert scaled == plain < 20


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_too_few_classes_for_dlr_are_refused() -> None:
    pixels, labels = torch.rand(2, 3, 8, 8), torch.zeros(2).long()
    with pytest.raises(AttackError, match=r"3 classes.*apgd-ce"):
        ApgdT()(smooth_net(classes=3), pixels, labels)


@pytest.mark.slow
def test_agrees_with_adversarial_robustness_toolbox() -> None:
    """Robust accuracy of a trained digits classifier on 500 images, within a point of another implementation's."""
    evasion = pytest.importorskip("art.attacks.evasion")
    estimators = pytest.importorskip("art.estimators.classification")
    from genaf_sdk.data import load_data

    data = load_data("digits", image_size=(16, 16))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    )
    train, targets = data.train.sample()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(300):
        batch = torch.randperm(len(train), generator=torch.Generator().manual_seed(step))[:128]
        optimizer.zero_grad()
        F.cross_entropy(model(train[batch]), targets[batch]).backward()
        optimizer.step()
    parts = [split.sample() for split in (data.test, data.validation)]
    pixels, labels = (torch.cat([part[i] for part in parts])[:500] for i in (0, 1))
    assert len(pixels) == 500
    budget = 16 / 255

    def robust(adversarial: Tensor) -> float:
        return float((model(adversarial).argmax(1) == labels).float().mean())

    ours = robust(ApgdCE(budget=budget, steps=100)(model, pixels, labels))
    classifier = estimators.PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (3, 16, 16), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    theirs = evasion.AutoProjectedGradientDescent(
        classifier, eps=budget, eps_step=2 * budget, max_iter=100, nb_random_init=1, batch_size=250, verbose=False
    ).generate(pixels.numpy(), labels.numpy())
    np.random.set_state(state)  # noqa: NPY002
    assert 0.05 < ours < 0.9
    assert robust(torch.from_numpy(theirs)) == pytest.approx(ours, abs=0.01)
