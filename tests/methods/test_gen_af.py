from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training import cpu_run, fine_tune, tiny_model

from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.accuracy import accuracy
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.checkpoints import Checkpoints
from genaf_sdk.engine.stage import Outputs
from genaf_sdk.errors import TrainingError
from genaf_sdk.methods import PGD, FineTuning, GenAF
from genaf_sdk.methods.genetic import genetic_regularization
from genaf_sdk.methods.steps import ascend


def test_the_loss_is_the_sum_of_its_weighted_terms() -> None:
    torch.manual_seed(0)
    features = (torch.randn(6, 4), torch.randn(6, 4))
    logits = (torch.randn(6, 3), torch.randn(6, 3))
    batch = Batch.whole(torch.zeros(6, 3, 2, 2), torch.arange(6) % 3)
    method = GenAF(adversarial_weight=0.5, clean_weight=2.0, genetic_weight=3.0)

    losses = method.losses(Outputs(features, logits), batch)

    clean = F.cross_entropy(logits[1], batch.labels, reduction="none")
    adversarial = F.cross_entropy(logits[0], batch.labels, reduction="none")
    genetic = genetic_regularization(*features, batch, weight=clean)
    torch.testing.assert_close(losses.rows, 0.5 * adversarial + 2 * clean + 3 * genetic)
    assert set(losses.terms) == {"adversarial", "clean", "genetic"}
    assert method.compares_rows


def test_a_term_of_weight_0_is_not_computed_and_nothing_is_compared() -> None:
    batch = Batch.whole(torch.zeros(4, 3, 2, 2), torch.arange(4) % 3)
    method = GenAF(genetic_weight=0.0)
    outputs = Outputs((torch.randn(4, 5),) * 2, (torch.randn(4, 3),) * 2)
    assert set(method.losses(outputs, batch).terms) == {"adversarial", "clean"}
    assert not method.compares_rows


def test_hardening_beats_ordinary_fine_tuning_under_pgd(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    ordinary, hardened = tiny_model(copy.deepcopy(tiny_encoder)), tiny_model(copy.deepcopy(tiny_encoder))
    schedule = quick_config.method.schedule.with_(epochs=40)
    attack = PGD(epsilon=24 / 255, step_size=6 / 255, steps=5)
    fine_tune(FineTuning(schedule=schedule), cpu_run(), ordinary, striped)
    fine_tune(GenAF(schedule=schedule, against=attack).with_(adaptability={"epochs": 0}), cpu_run(), hardened, striped)

    pixels, labels = striped.test.sample()

    def robust(model: nn.Module) -> float:
        adversarial, _ = ascend(model, pixels, labels, torch.zeros_like(pixels), attack.with_(steps=10))
        return float((model(adversarial).argmax(1) == labels).float().mean())

    assert accuracy(hardened, striped.test, torch.device("cpu")) > 0.9
    assert robust(hardened) > robust(ordinary) + 0.1


def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    states = []
    for _ in range(2):
        model = tiny_model(copy.deepcopy(tiny_encoder))
        fine_tune(quick_config.method.with_(schedule={"epochs": 2}), cpu_run(), model, striped)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(
    tiny_encoder: nn.Module, striped: DataSplits, tmp_path: Path
) -> None:
    class Poisoned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = tiny_encoder, 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            return self.inner(x) * (float("nan") if self.calls == 5 else 1.0)

    run = cpu_run(checkpoints=Checkpoints(tmp_path))
    method = FineTuning().with_(schedule={"epochs": 3, "batch_size": 32, "encoder_learning_rate": 1e-3})
    with pytest.raises(TrainingError, match=r"step 5 \(epoch 2\)"):
        fine_tune(method, run, tiny_model(Poisoned()), striped)
    assert [path.name for path in (tmp_path / "stage-1").iterdir()] == ["00000003"]  # finite: the first epoch's
