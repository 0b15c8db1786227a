"""Double masking against a naive double loop, against attacks on it, and in the report."""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk import evaluate
from genaf_sdk.data import DataSplits
from genaf_sdk.data.sampling import Sample, mask_color
from genaf_sdk.errors import AttackError, OutputError
from genaf_sdk.evaluation.certificates import DoubleMasking, certify, leading_class
from genaf_sdk.evaluation.settings import CertificateConfig, EvaluationConfig
from genaf_sdk.inputs.masks import MaskSet
from genaf_sdk.inputs.patches import paste
from genaf_sdk.report.robustness import RobustnessReport

PATCH, GRAY = 4, (0.4, 0.4, 0.4)
MASKS = MaskSet.covering((16, 16), (PATCH, PATCH), 3)
DEFENSE = DoubleMasking(MASKS, GRAY)


class Tiny(nn.Module):
    """A small network with batch norm, which has to be in eval mode for a certificate to mean anything."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU()
        )
        self.head = nn.Linear(16 * 16, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.body(pixels).flatten(1))


def patterns(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three classes told by the weight of faint colors under noise: some images are certified, some are not."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    strength = 0.25 * torch.rand(count, 1, 1, 1, generator=generator)
    images = 0.25 + 0.4 * torch.rand(count, 3, 16, 16, generator=generator)
    return (images + strength * torch.eye(3)[labels][:, :, None, None]).clamp(0, 1), labels


@pytest.fixture(scope="module")
def trained() -> Tiny:
    torch.manual_seed(0)
    model, (images, labels) = Tiny(), patterns(240, 1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(60):
        pairs = MASKS.pairs[torch.randint(len(MASKS.pairs), (len(images),))]
        shown = images if step % 2 else MASKS.hide(images, pairs, torch.tensor(GRAY).view(3, 1, 1))
        optimizer.zero_grad()
        F.cross_entropy(model(shown), labels).backward()
        optimizer.step()
    return model  # in train mode


def naive(model: nn.Module, image: Tensor) -> tuple[int, list[list[int]]]:
    """Algorithm 1 of the publication in plain loops: the answer, and the table of all two-mask predictions."""
    model = copy.deepcopy(model).eval()

    def predicted(*places: tuple[int, int]) -> int:
        masked = image.clone()
        for top, left in places:
            for channel, value in enumerate(GRAY):
                masked[channel, top : top + MASKS.sides[0], left : left + MASKS.sides[1]] = value
        with torch.no_grad():
            return int(model(masked[None]).argmax())

    table = [[predicted(one, other) for other in MASKS.places] for one in MASKS.places]
    ones = [predicted(place) for place in MASKS.places]
    counts = Counter(ones)
    majority = next(label for label in ones if counts[label] == max(counts.values()))
    for index, own in enumerate(ones):
        if own != majority and all(other == own for other in table[index]):
            return own, table
    return majority, table


def test_answers_and_certificates_are_those_of_a_naive_double_loop(trained: Tiny) -> None:
    images, labels = patterns(24, 7)
    expected = [naive(trained, image) for image in images]
    answers, holds = DEFENSE.answer(trained, images), DEFENSE.certified(trained, images, labels)
    assert answers.tolist() == [answer for answer, _ in expected]
    assert holds.tolist() == [
        all(found == label for row in table for found in row)
        for (_, table), label in zip(expected, labels.tolist(), strict=True)
    ]
    assert 0 < int(holds.sum()) < len(holds), "both kinds are tried"
    assert any(len({row[i] for i, row in enumerate(table)}) > 1 for _, table in expected), "second rounds are tried"
    assert trained.training, "the model is left in the mode that it was in"


def attacked(model: nn.Module, images: Tensor, labels: Tensor, place: tuple[int, int], steps: int) -> Tensor:
    """A patch an image at one place, up the loss of all one-mask predictions, which the majority is taken of."""
    model = copy.deepcopy(model).eval()
    places = torch.tensor(place).repeat(len(images), 1)
    patches = torch.rand(len(images), 3, PATCH, PATCH, generator=torch.Generator().manual_seed(place[0]))
    fill, ones = torch.tensor(GRAY).view(3, 1, 1), MASKS.pairs[: len(MASKS)]
    for _ in range(steps):
        patches.requires_grad_()
        shown = paste(images, patches, places).repeat_interleave(len(ones), 0)
        logits = model(MASKS.hide(shown, ones.repeat(len(images), 1), fill))
        loss = F.cross_entropy(logits, labels.repeat_interleave(len(ones)), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, patches)
        patches = (patches.detach() + 0.2 * gradient.sign()).clamp(0, 1)
    return paste(images, patches.detach(), places)


def test_no_attack_on_the_defense_leaves_fewer_right_than_are_certified(trained: Tiny) -> None:
    images, labels = patterns(60, 3)
    holds = DEFENSE.certified(trained, images, labels)
    worst = DEFENSE.answer(trained, images) == labels
    before = int(worst.sum())
    for place in [(0, 0), (0, 6), (6, 6), (9, 3), (12, 12), (5, 10)]:
        worst &= DEFENSE.answer(trained, attacked(trained, images, labels, place, steps=12)) == labels
    assert int(holds.sum()) <= int(worst.sum()) < before, "the attack has teeth, and proof is below measure"
    assert bool(worst[holds].all()), "no certified answer moved"


def test_random_patches_never_change_a_certified_answer(trained: Tiny) -> None:
    images, labels = patterns(45, 5)
    kept = DEFENSE.certified(trained, images, labels)
    images, labels = images[kept], labels[kept]
    assert len(images) > 5
    generator = torch.Generator().manual_seed(0)
    for trial in range(40):
        sides = torch.randint(1, PATCH + 1, (2,), generator=generator).tolist()
        places = torch.stack([torch.randint(16 - side + 1, (len(images),), generator=generator) for side in sides], 1)
        patches = torch.rand(len(images), 3, *sides, generator=generator)
        patches = (patches < 0.5).float() if trial % 2 else patches
        if trial == 0:
            patches = torch.full_like(patches, torch.nan)
        assert torch.equal(DEFENSE.answer(trained, paste(images, patches, places)), labels)


def test_certificates_of_the_unlabelled_hold_for_the_photograph_before_the_patch(trained: Tiny) -> None:
    images, labels = patterns(30, 9)
    shown = attacked(trained, images, labels, (6, 6), steps=6)
    answers = DEFENSE.answer(trained, shown)
    certified = DEFENSE.certified(trained, shown, answers)
    assert torch.equal(DEFENSE.answer(trained, images)[certified], answers[certified])


def test_ties_and_nan_are_nobodys_class() -> None:
    logits = torch.tensor([[1.0, 2, 0], [2, 2, 0], [torch.nan, 3, 0], [torch.inf, 3, 0], [1e6, 1e6 + 1, 0]])
    assert leading_class(logits, 5).tolist() == [1, -1, -1, -1, 1]
    assert leading_class(logits, 5, lead=1e-5).tolist() == [1, -1, -1, -1, -1], "a lead that rounding may turn"
    images = torch.rand(4, 3, 16, 16)
    for broken in (0.0, torch.nan):
        classify = lambda pixels, value=broken: torch.full((len(pixels), 3), value)  # noqa: E731
        assert DEFENSE.answer(classify, images).tolist() == [-1] * 4
        assert not DEFENSE.certified(classify, images, torch.zeros(4, dtype=torch.long)).any()
        assert not DEFENSE.certified(classify, images, torch.full((4,), -1)).any()


def test_an_image_is_not_looked_at_after_its_first_wrong_mask() -> None:
    seen: list[int] = []

    def never_right(pixels: Tensor) -> Tensor:
        seen.append(len(pixels))
        return torch.eye(3)[torch.zeros(len(pixels), dtype=torch.long)]

    assert not DEFENSE.certified(never_right, torch.rand(500, 3, 16, 16), torch.ones(500, dtype=torch.long)).any()
    assert sum(seen) == 500, "one pass an image"


@pytest.mark.parametrize("shape", [(2, 3, 16, 15), (2, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...], trained: Tiny) -> None:
    with pytest.raises(AttackError, match="are to be masked"):
        DEFENSE.answer(trained, torch.rand(shape))


CONFIG = EvaluationConfig(attacks=("pgd:steps=1",), curve=(), checks=False, sample_wise_samples=6)


def test_the_report_says_what_is_proven_apart_from_what_is_measured(trained: Tiny, striped: DataSplits) -> None:
    config = replace(CONFIG, certificate=CertificateConfig(patch=0.05, masks=3, samples=20), surrogate_samples=8)
    report = evaluate(trained, striped, config=config, seed=2)
    found = report.certificate
    assert found is not None
    assert (found.patch, found.image, found.n, found.masks) == ((4, 4), (16, 16), 20, 9)
    pixels, labels = striped.test.sample(20, seed=2)
    defense = DoubleMasking(MASKS, mask_color(striped.train, 2))
    assert tuple(found.fill) == defense.fill, "that of the exported file, however many images were crafted on"
    assert found.certified == int(defense.certified(trained, pixels, labels).sum())
    assert found.answered == int((defense.answer(trained, pixels) == labels).sum())
    assert f"Proven: with double masking, {found.certified / 20:.1%}" in report.verdict
    assert "4 x 4 of 16 x 16 pixels" in report.verdict
    assert any("belongs to the answer of double masking" in limit for limit in report.limits)
    content = json.loads(json.dumps(report.to_dict()))
    again = RobustnessReport.from_dict(content)
    assert again.certificate == found
    content["certificate"]["certified"] = found.answered + 1
    with pytest.raises(OutputError, match="certified"):
        RobustnessReport.from_dict(content)
    del content["certificate"]
    assert RobustnessReport.from_dict(content).certificate is None, "reports of before"


def test_nothing_is_certified_unless_asked_for(trained: Tiny, striped: DataSplits) -> None:
    report = evaluate(trained, striped, config=CONFIG)
    assert report.certificate is None
    assert report.corruptions is None
    assert "Proven" not in report.verdict
    with pytest.raises(AttackError, match="no area"):
        certify(trained, Sample.draw(striped.test, None, seed=0), CertificateConfig(), GRAY)
