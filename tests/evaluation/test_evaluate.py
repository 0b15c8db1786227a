from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from training import tiny_model

from genaf_sdk import HardenConfig, evaluate
from genaf_sdk.attacks import (
    PGD,
    EncoderAttack,
    EncoderPatch,
    FeaturePGD,
    ImagePatch,
    PatchUAP,
    Perturbation,
    SampleWiseAttack,
    UniversalModelAttack,
    load_attack,
)
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.errors import AttackError, DataError
from genaf_sdk.evaluation.checks import (
    adaptive_not_weaker,
    labels_not_weaker,
    own_patches_not_weaker,
    patches_beat_random_ones,
)
from genaf_sdk.evaluation.crafting import Crafting
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.evaluation.row import Row
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.evaluation.workers import Workers
from genaf_sdk.inputs.keys import Knowledge, PerturbationKey
from genaf_sdk.report.scores import Role, Score, wilson_interval


class Redness(nn.Module):
    """A classifier one can compute by hand: the channel with the highest mean wins."""

    def __init__(self, levels: int | None = None) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(10.0))
        self.levels = levels

    def forward(self, pixels: Tensor) -> Tensor:
        if self.levels is not None:
            pixels = (pixels * self.levels).round() / self.levels
        return self.gain * pixels.mean((2, 3))


@pytest.fixture
def config(quick_config: HardenConfig) -> EvaluationConfig:
    return replace(quick_config.evaluation, attacks=("pgd",), curve=())


def test_figures_are_exact_counts_of_the_deployed_function(striped: DataSplits, config: EvaluationConfig) -> None:
    model = Redness()
    values = torch.zeros(3, 16, 16)
    values[0] = 0.5  # redder than any stripe is green
    red = Perturbation(values, 0.5, key=PerturbationKey(attack="red"), details={"tries": 6})

    report = evaluate(model, striped, perturbations={"red": red}, config=replace(config, checks=False))

    row = next(score for score in report.scores if score.attack == "red")
    pixels, labels = striped.test.sample()
    predicted = model((pixels + values).clamp(0, 1)).argmax(1)
    assert row.correct == int((predicted == labels).sum())
    assert row.changed == int((predicted != model(pixels).argmax(1)).sum())
    assert row.n == len(labels) == 60
    assert row.tries == 1, "it was chosen among six against another model"
    assert report.accuracy("clean") == 1.0


def test_a_model_that_masks_its_gradients_is_warned_about(striped: DataSplits, config: EvaluationConfig) -> None:
    honest = evaluate(Redness(), striped, config=config)
    masked = evaluate(Redness(levels=8), striped, config=config)

    assert all(check.passed for check in honest.checks)
    failed = {check.name: check.figures for check in masked.checks if not check.passed}
    assert "An unbounded attack succeeds" in failed
    assert "%" in failed["An unbounded attack succeeds"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x.mean((2, 3)) * float("nan"), "NaN"),
        (lambda x: x.mean((1, 2, 3)), r"\(30,\)"),
        (3, "a int"),
    ],
)
def test_models_that_cannot_be_measured_are_refused(
    model: object, message: str, striped: DataSplits, config: EvaluationConfig
) -> None:
    with pytest.raises(AttackError, match=message):
        evaluate(model, striped, config=config)


def test_surrogate_images_of_another_size_are_resized(
    striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    report = evaluate(
        Redness(),
        striped,
        attacks=["uapgd"],
        encoder=tiny_encoder,
        surrogate=torch.rand(40, 3, 20, 24),
        config=config,
    )
    rows = [score for score in report.scores if score.column == "transfer"]
    assert [row.crafting_data for row in rows] == ["surrogate"]


@pytest.mark.parametrize("images", [torch.rand(4, 1, 16, 16), torch.rand(4, 3, 16), 255 * torch.rand(4, 3, 16, 16)])
def test_surrogate_images_that_no_attack_could_use_are_refused(
    images: Tensor, striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    with pytest.raises(AttackError, match="The attacker was given"):
        evaluate(Redness(), striped, attacks=["uapgd"], encoder=tiny_encoder, surrogate=images, config=config)


@dataclass(frozen=True)
class Seeing(EncoderAttack):
    """Notes what it is given."""

    name = "seeing"
    seen: ClassVar[list[Tensor]] = []

    def tries(self, encoder: nn.Module, surrogate: Tensor, **_: Any) -> list[Perturbation]:
        self.seen.append(surrogate)
        return [Perturbation(torch.zeros(surrogate.shape[1:], device="cpu"), self.threat)]

    def run(self, *_: Any) -> Perturbation:
        raise NotImplementedError


def test_of_many_surrogate_images_some_are_drawn(
    striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    of_one_class, of_another = torch.zeros(20, 3, 16, 16), torch.ones(20, 3, 16, 16)
    Seeing.seen.clear()
    evaluate(
        Redness(), striped, attacks=[Seeing()], encoder=tiny_encoder, surrogate=torch.cat([of_one_class, of_another]),
        config=replace(config, surrogate_samples=20, checks=False),
    )  # fmt: skip
    assert 5 < Seeing.seen[0].mean((1, 2, 3)).sum() < 15, "the first twenty are of one class"


def test_every_attack_gets_the_same_tensor_on_the_device_of_the_model() -> None:
    meta = torch.device("meta")  # as a GPU: what is sent there is another tensor every time
    model = replace(EvaluatedModel.of(nn.Linear(2, 2), Role.HARDENED), device=meta)
    crafting = Crafting([model], None, {"train": torch.rand(4, 3, 8, 8)}, torch.arange(4), 0, str)
    Seeing.seen.clear()
    for _ in range(2):
        crafting.craft(Workers(), "", Seeing(), nn.Linear(2, 2), crafting.sources["train"]).result()
    first, second = Seeing.seen
    assert first is second
    assert first.device == meta


@pytest.mark.parametrize("outputs", [2, 5])
def test_a_model_of_other_classes_than_the_data_is_refused(
    outputs: int, striped: DataSplits, config: EvaluationConfig
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, outputs))
    with pytest.raises(DataError, match=f"gives {outputs} logits, and the data has 3 classes"):
        evaluate(model, striped, config=config)


def test_an_attack_given_as_an_object_keeps_its_budget(striped: DataSplits, config: EvaluationConfig) -> None:
    report = evaluate(Redness(), striped, attacks=[PGD(budget=0.4, steps=3)], config=config)
    assert [score.budget for score in report.scores if score.attack == "pgd"] == [0.4]


def test_wilson_interval_has_its_known_values() -> None:
    low, high = wilson_interval(8, 10)
    assert (low, high) == (pytest.approx(0.4901625, abs=1e-6), pytest.approx(0.9433178, abs=1e-6))
    assert wilson_interval(0, 50)[0] == 0.0
    assert wilson_interval(50, 50)[1] == 1.0
    assert Score("hardened", "clean", "", 0.0, 10, 8, 0).interval == (low, high)


def rows_of(report, attack: str) -> list[Score]:  # type: ignore[no-untyped-def]
    return [score for score in report.scores if score.attack == attack]


class Flipped(nn.Module):
    """A user's model that turns RGB into the BGR that the network inside was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Redness()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels.flip(1))


class Holder:
    """A callable that is no module, and has a model inside."""

    def __init__(self) -> None:
        self.model = Redness()

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.model(pixels.flip(1)).detach()


@pytest.mark.parametrize("wrapper", [Flipped, Holder])
def test_a_wrapper_with_a_model_inside_is_measured_as_it_is(
    wrapper: type, striped: DataSplits, config: EvaluationConfig
) -> None:
    model = wrapper()
    pixels, labels = striped.test.sample()
    expected = float((model(pixels).argmax(1) == labels).float().mean())
    report = evaluate(model, striped, config=replace(config, checks=False))
    assert expected == pytest.approx(1 / 3)
    assert report.accuracy("clean") == pytest.approx(expected)


class Normalizing(nn.Module):
    """A user's model that normalizes before its encoder, rather than in it."""

    def __init__(self, encoder: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.encoder, self.head, self.mean, self.std = encoder, nn.Linear(16, 3), mean, std

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.encoder(x=(pixels - self.mean) / self.std))


@pytest.mark.parametrize(("mean", "std", "takes_pixels"), [(0.0, 1.0, True), (0.45, 0.22, False)])
def test_an_encoder_is_attacked_only_where_the_model_gives_it_pixels(
    mean: float, std: float, takes_pixels: bool, striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    """On the other images that a normalizing model gives it, an attack of pixels shows nothing."""
    model = Normalizing(tiny_encoder, mean, std)
    quick = replace(config, checks=False)
    report = evaluate(model, striped, attacks=["uapgd:steps=1"], baseline=Redness(), config=quick)
    assert bool(report.rows("adaptive")) == takes_pixels
    said = [note for note in report.notes if "adaptive" in note]
    assert ["undefended" in note for note in said] == [True] if takes_pixels else [False, True]
    assert not tiny_encoder._forward_pre_hooks


def test_a_result_is_unwrapped(striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module) -> None:
    @dataclass
    class Result:
        model: nn.Module
        published: nn.Module

    from genaf_sdk.models.encoder import PixelEncoder

    result = Result(Redness(), PixelEncoder(tiny_encoder))
    report = evaluate(result, striped, attacks=["uapgd:steps=2"], config=replace(config, checks=False))
    assert report.accuracy("clean") == 1.0
    assert [row.column for row in rows_of(report, "uapgd")] == ["transfer"]


def test_the_curve_uses_the_seed_of_the_evaluation(
    striped: DataSplits, config: EvaluationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    original = PGD.__call__

    def seen(self: PGD, *given: Tensor, seed: int = 0, **rest: object) -> Tensor:
        seeds.append(seed)
        return original(self, *given, seed=seed, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PGD, "__call__", seen)
    evaluate(Redness(), striped, config=replace(config, curve=(4 / 255, 16 / 255)), seed=7)
    assert len(seeds) == 4  # the table, two points, the check
    assert set(seeds) == {7}


@pytest.mark.parametrize(
    ("attack", "drawn"),
    [("pgd", [("white-box", "pgd")]), ("uapgd:steps=1", [("transfer", "uapgd")]), ("label-uap:steps=1", [])],
)
def test_the_curve_has_no_attack_that_was_not_asked_for(
    attack: str, drawn: list[tuple[str, str]], striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    quick = replace(config, attacks=(attack,), curve=(4 / 255,), checks=False)
    report = evaluate(Redness(), striped, encoder=tiny_encoder, config=quick)
    assert [(point.column, point.attack) for point in report.curve] == drawn
    assert any("uapgd" in name for name in report.perturbations) == ("uapgd" in attack)


def test_what_a_callable_does_not_allow_is_said(striped: DataSplits, config: EvaluationConfig) -> None:
    report = evaluate(lambda x: x.mean((2, 3)), striped, attacks=["pgd", "label-uap"], config=config)
    assert not rows_of(report, "pgd") + rows_of(report, "label-uap")
    said = " ".join(report.notes)
    assert "pgd was not run: it needs gradients" in said
    assert "label-uap was not run" in said


def test_one_attack_with_two_settings_on_two_models_is_kept_once_each(
    striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    quick = replace(config, checks=False)
    attacks = ["uapgd:steps=1", "uapgd:steps=2"]
    report = evaluate(Redness(), striped, attacks=attacks, encoder=tiny_encoder, baseline=Redness(), config=quick)
    assert set(report.perturbations) == {"noise", "transfer-uapgd", "transfer-uapgd-2"}
    rows = rows_of(report, "uapgd")
    assert [(row.model, row.perturbation) for row in rows] == [
        ("hardened", "transfer-uapgd"),
        ("undefended", "transfer-uapgd"),
        ("hardened", "transfer-uapgd-2"),
        ("undefended", "transfer-uapgd-2"),
    ]


@pytest.mark.parametrize(
    ("text", "budget"), [("pgd", 8 / 255), ("pgd:budget=4/255", 4 / 255), ("pgd:steps=2", 8 / 255)]
)
def test_a_stated_budget_is_kept(text: str, budget: float, striped: DataSplits, config: EvaluationConfig) -> None:
    report = evaluate(Redness(), striped, attacks=[text], config=replace(config, checks=False))
    assert [row.budget for row in rows_of(report, "pgd")] == [budget]


@dataclass(frozen=True)
class Broken(EncoderAttack):
    name = "broken"
    source = "here"

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        raise RuntimeError("out of memory, say")


def test_an_attack_that_fails_costs_its_row_and_is_named(
    striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    attacks = [Broken(), "uapgd:steps=2", PGD(steps=2)]
    report = evaluate(Redness(), striped, attacks=attacks, encoder=tiny_encoder, config=replace(config, checks=False))
    assert not rows_of(report, "broken")
    assert len(rows_of(report, "uapgd")) == len(rows_of(report, "pgd")) == 1
    (failure,) = report.failures
    assert (failure.part, failure.name, failure.column) == ("attack", "broken", "transfer")
    assert "out of memory, say" in failure.error
    assert "NOT DONE: attack broken" in report.verdict


@dataclass(frozen=True)
class Paints(EncoderAttack):
    """Adds one color after the other, as the attacker cannot tell which does most."""

    name = "paints"
    source = "here"
    budget: float = 0.6

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> list[Perturbation]:
        colors = torch.eye(3)[:, :, None, None].expand(-1, -1, *surrogate.shape[2:])
        return [Perturbation(self.budget * color, self.threat) for color in colors]


class Wary(Redness):
    """Takes redness off where there is some everywhere."""

    def forward(self, pixels: Tensor) -> Tensor:
        red = pixels[:, :1]
        everywhere = red.amin((2, 3), keepdim=True) > 0.55
        return super().forward(torch.cat([red - 0.6 * everywhere, pixels[:, 1:]], dim=1))


def test_of_what_an_attacker_tries_the_strongest_counts_for_each_model(
    striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    config = replace(config, checks=False, surrogate_samples=60)
    model, baseline = Wary(), Redness()
    report = evaluate(model, striped, attacks=[Paints()], encoder=tiny_encoder, baseline=baseline, config=config)
    pixels, labels = striped.test.sample()
    tries = Paints().tries(tiny_encoder, pixels)
    assert [float(found.values.sum((1, 2)).argmax()) for found in tries] == [0, 1, 2]
    assert torch.equal(Paints()(tiny_encoder, pixels).values, tries[0].values)
    assert {found.details["tries"] for found in tries} == {3}
    rows = rows_of(report, "paints")
    assert {row.tries for row in rows} == {3}
    for name, judged, strongest in (("hardened", model, 1), ("undefended", baseline, 0)):
        left = [int((judged(found.apply(pixels)).argmax(1) == labels).sum()) for found in tries]
        assert left.index(min(left)) == strongest
        lowest = min((row for row in rows if row.model == name), key=lambda row: row.correct)
        assert lowest.correct == min(left)
    found = {name: report.perturbations[name].values for name in report.perturbations if name != "noise"}
    assert [torch.equal(values, tries[index].values) for values, index in zip(found.values(), (1, 0), strict=True)]
    said = [(row.model, row.perturbation) for row in rows]
    assert said == [(model, name) for name in found for model in ("hardened", "undefended")], "of each, for both"


@dataclass(frozen=True)
class Timid(Paints):
    """Has several tries, and dares nothing on the second encoder that it meets."""

    name = "timid"
    met: ClassVar[list[nn.Module]] = []
    left: int = 3
    """Of its tries on the second encoder."""

    def run(self, encoder: nn.Module, *others: Any) -> list[Perturbation]:
        self.met.append(encoder)
        if len(self.met) == 1:
            return super().run(encoder, *others)
        return [replace(found, values=0 * found.values) for found in super().run(encoder, *others)[: self.left]]


@pytest.mark.parametrize("left", [1, 3])
def test_who_knows_the_hardened_encoder_has_what_was_tried_on_the_public_one(
    left: int, striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    pixels, labels = striped.train.sample(40)
    model = replace(EvaluatedModel.of(Redness(), Role.HARDENED), encoder=tiny_encoder)
    crafting, workers = Crafting([model], tiny_encoder, {"train": pixels}, labels, 0, str), Workers()
    Timid.met.clear()
    begun = crafting.begin([Timid(left=left)], workers)
    assert [one.column for one in begun] == [Knowledge.TRANSFER, Knowledge.ADAPTIVE]
    (transferred,), (adaptive,) = (list(crafting.finished(one, workers)) for one in begun)
    assert transferred.perturbation is not None
    assert adaptive.perturbation is not None
    assert torch.equal(adaptive.perturbation.values, transferred.perturbation.values)
    assert (transferred.perturbation.details["tries"], adaptive.perturbation.details["tries"]) == (3, 3 + left)
    assert adaptive.perturbation.key.knowledge == Knowledge.ADAPTIVE


def test_an_attack_that_gives_nothing_fails(tiny_encoder: nn.Module) -> None:
    @dataclass(frozen=True)
    class Empty(Paints):
        def run(self, *_: Any) -> list[Perturbation]:
            return []

    with pytest.raises(AttackError, match=r"'paints' failed\. It gave nothing"):
        Empty().tries(tiny_encoder, torch.rand(4, 3, 16, 16))


def test_images_are_read_once_and_in_batches(config: EvaluationConfig, tiny_encoder: nn.Module) -> None:
    read: list[int] = []

    class Reader:
        def __call__(self, indices):  # type: ignore[no-untyped-def]
            read.append(len(indices))
            return torch.full((len(indices), 3, 224, 224), 0.5)

        def identities(self, indices):  # type: ignore[no-untyped-def]
            return None

    small = LabeledImages(torch.arange(6) % 3, Reader(), on_disk=True)
    data = DataSplits(small, small, LabeledImages(torch.arange(300) % 3, Reader(), on_disk=True), ("a", "b", "c"))
    data.describe()
    read.clear()
    quick = replace(config, checks=False, sample_wise_samples=4)
    evaluate(Redness(), data, attacks=["uapgd:steps=1", "uapgd:steps=2"], encoder=tiny_encoder, config=quick)
    assert max(read) <= 256  # those of the fingerprint
    assert sum(count for count in read if count <= 60) < 2 * 300 + 100, "two perturbations, one pass"


def test_an_adaptive_attack_weaker_than_the_transferred_one_fails_its_check() -> None:
    model = EvaluatedModel.of(Redness(), Role.HARDENED)
    labels = torch.zeros(200, dtype=torch.long)

    def row(column: Knowledge, fooled: range, run: int = 1) -> Row:
        predicted = labels.clone()
        predicted[list(fooled)] = 1
        found = Perturbation(torch.zeros(3, 4, 4), 0.1, key=PerturbationKey(column, "uapgd", run=run))
        return Row(model, column, None, found, "train", predicted)

    transferred = row(Knowledge.TRANSFER, range(30))
    weaker, as_strong = row(Knowledge.ADAPTIVE, range(10)), row(Knowledge.ADAPTIVE, range(5, 33))
    failed = adaptive_not_weaker(model, [transferred, weaker], labels)
    assert failed is not None
    assert not failed.passed  # 15.0 against 5.0 % of 200: the intervals overlap, the images do not
    assert "20 of 200 images, only the second 0" in failed.figures
    passed = adaptive_not_weaker(model, [transferred, as_strong], labels)
    assert passed is not None
    assert passed.passed
    other = row(Knowledge.ADAPTIVE, range(10), run=2)
    assert adaptive_not_weaker(model, [transferred, other], labels) is None, "another attack's"
    attack = load_attack("cluster-uap")
    tries = row(Knowledge.TRANSFER, range(10)), row(Knowledge.TRANSFER, range(30), run=2), weaker
    failed = adaptive_not_weaker(model, [replace(each, attack=attack) for each in tries], labels)
    assert failed is not None
    assert not failed.passed, "the second try is the stronger one"


def patch_row(column: Knowledge, fooled: range, *, each: bool = False) -> Row:
    """A row of a patch on 100 images of class 0."""
    predicted = torch.zeros(100, dtype=torch.long)
    predicted[list(fooled)] = 1
    model = EvaluatedModel.of(PATCHED, Role.HARDENED)
    if each:
        return Row(model, column, ImagePatch(budget=0.1), None, "test", predicted)
    attack = EncoderPatch(budget=0.1) if column != Knowledge.WHITE_BOX else PatchUAP(budget=0.1)
    mask = torch.zeros(1, 10, 10)
    mask[:, :3, :3] = 1
    found = Perturbation(torch.ones(3, 10, 10) * mask, attack.threat, mask, PerturbationKey(column, attack.name))
    return Row(model, column, attack, found, "train", predicted)


PATCHED = Redness()


def of_one_model(*rows: Row) -> list[Row]:
    return [replace(row, model=rows[0].model) for row in rows]


def test_knowing_labels_and_patching_each_image_has_to_be_worth_it() -> None:
    labels = torch.zeros(100, dtype=torch.long)
    blind, knowing, weak = of_one_model(
        patch_row(Knowledge.ADAPTIVE, range(30)),
        patch_row(Knowledge.WHITE_BOX, range(40)),
        patch_row(Knowledge.WHITE_BOX, range(5)),
    )
    passed, failed = (labels_not_weaker(blind.model, [blind, row], labels) for row in (knowing, weak))
    assert passed is not None
    assert failed is not None
    assert (passed.passed, failed.passed) == (True, False)
    assert labels_not_weaker(blind.model, [blind], labels) is None
    for fooled, passes in ((range(50), True), (range(10), False)):
        universal, each = of_one_model(knowing, patch_row(Knowledge.WHITE_BOX, fooled, each=True))
        check = own_patches_not_weaker(universal.model, [universal, each], labels)
        assert check is not None
        assert check.passed is passes


def test_a_patch_that_shows_nothing_better_than_noise_fails_its_check() -> None:
    pixels = torch.full((60, 3, 10, 10), 0.4)
    pixels[:, 0] += 0.001  # red, narrowly
    labels = torch.zeros(60, dtype=torch.long)
    row = patch_row(Knowledge.WHITE_BOX, range(0))
    crafted = row.perturbation
    assert crafted is not None

    def random_color(seed: int) -> int:
        noise = torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(seed))
        return int((noise * crafted.mask).mean((1, 2)).argmax())

    seed = next(seed for seed in range(20) if random_color(seed) != 0)
    for color, passes in ((1, True), (0, False)):  # green fools; red does not, where random pixels do
        values = torch.eye(3)[color][:, None, None] * torch.ones(10, 10) * crafted.mask
        shown = replace(row, perturbation=replace(crafted, values=values))
        check = patches_beat_random_ones(row.model, [shown], pixels, labels, seed)
        assert check is not None
        assert check.passed is passes, check.figures


def test_attacks_on_features_fill_transfer_and_adaptive_and_are_made_once(
    striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    run = FeaturePGD.run
    monkeypatch.setattr(FeaturePGD, "run", lambda self, *given: seen.append(1) or run(self, *given))
    hardened = tiny_model(tiny_encoder)
    quick = replace(config, checks=False, sample_wise_samples=20)
    report = evaluate(
        hardened, striped, attacks=["feature-pgd:steps=2"], encoder=tiny_encoder, baseline=Redness(), config=quick
    )
    rows = rows_of(report, "feature-pgd")
    assert [(row.model, row.column, row.n, row.crafting_data) for row in rows] == [
        ("hardened", "transfer", 20, "test"),
        ("undefended", "transfer", 20, "test"),
        ("hardened", "adaptive", 20, "test"),
    ]
    assert {row.budget for row in rows} == {quick.sample_wise_budget}
    assert len(seen) == 2


def test_more_knowledge_starts_from_what_less_found(
    striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    still = "steps=1,goals=0,relative_step_size=0"
    report = evaluate(
        tiny_model(tiny_encoder),
        striped,
        attacks=[f"label-uap:{still}", f"uapgd:{still}"],
        encoder=tiny_encoder,
        config=replace(config, checks=False),
    )
    found = {name: kept.values for name, kept in report.perturbations.items() if "uap" in name}
    assert list(found) == ["transfer-uapgd", "adaptive-uapgd-hardened", "white-box-label-uap-hardened"]
    assert torch.equal(found["transfer-uapgd"], found["adaptive-uapgd-hardened"])
    assert torch.equal(found["transfer-uapgd"], found["white-box-label-uap-hardened"])
    assert [row.converged for row in report.scores if "uap" in row.attack] == [False] * 3


def test_the_count_of_a_try_that_is_dropped_is_not_taken_for_that_of_a_later_one(striped: DataSplits) -> None:
    pixels, labels = striped.train.sample(40)
    model = EvaluatedModel.of(Redness(), Role.HARDENED)
    crafting = Crafting([model], None, {"train": pixels}, labels, 0, str)

    def right(strength: float) -> int:
        color = strength * torch.eye(3)[0][:, None, None].expand(-1, *pixels.shape[2:])
        return crafting._right(Perturbation(color, Paints().threat), model, lambda module: module)

    counts = [right(strength) for strength in (0.6, 0.0) * 10]
    assert counts == counts[:2] * 10
    assert counts[0] < counts[1]


@dataclass(frozen=True)
class Forgets(UniversalModelAttack):
    """Knows labels, and makes nothing of them."""

    name = "forgets"
    source = "here"
    budget: float = 0.6

    def run(self, model: nn.Module, pixels: Tensor, *_: Any) -> Perturbation:
        return Perturbation(torch.zeros(pixels.shape[1:]), self.threat)


def test_who_has_labels_keeps_what_was_stronger_without(
    striped: DataSplits, config: EvaluationConfig, tiny_encoder: nn.Module
) -> None:
    report = evaluate(
        Redness(), striped, attacks=[Forgets(), Paints()], encoder=tiny_encoder, config=replace(config, checks=False)
    )
    (labeled,), unlabeled = rows_of(report, "forgets"), rows_of(report, "paints")
    assert (labeled.column, labeled.tries) == ("white-box", 1)
    assert labeled.correct == min(row.correct for row in unlabeled) < labeled.n
    kept = report.perturbations[labeled.perturbation]
    assert "tries" not in kept.details
    assert torch.equal(kept.values, report.perturbations[unlabeled[0].perturbation].values)


def test_the_default_evaluation_has_perturbations_and_patches_for_all_and_for_each_image() -> None:
    attacks = [load_attack(text) for text in EvaluationConfig().attacks]
    for kind in (EncoderAttack, UniversalModelAttack, SampleWiseAttack):
        assert {attack.is_patch for attack in attacks if isinstance(attack, kind)} == {True, False}
