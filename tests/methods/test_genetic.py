from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genaf_sdk.engine.batches import Batch
from genaf_sdk.methods.genetic import genetic_regularization as by_row

CASES = np.load(Path(__file__).parent / "data" / "genetic_cases.npz")


def genetic_regularization(adversarial: Tensor, clean: Tensor, labels: Tensor, *, weight: Tensor) -> Tensor:
    """The mean over rows, as the engine takes it."""
    rows = by_row(adversarial, clean, Batch.whole(adversarial, labels), weight=weight)
    assert rows.shape == labels.shape
    return rows.mean()


def case(number: int, name: str) -> Tensor:
    return torch.from_numpy(CASES[f"case{number}_{name}"])


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_times_n_is_the_authors_function_in_value_and_gradients(number: int) -> None:
    adversarial, benign = case(number, "first").requires_grad_(), case(number, "second").requires_grad_()

    loss = genetic_regularization(adversarial, benign, case(number, "labels"), weight=case(number, "weight"))
    (loss * len(adversarial)).backward()

    assert float(loss.detach()) * len(adversarial) == pytest.approx(float(case(number, "loss")), abs=1e-9)
    torch.testing.assert_close(adversarial.grad, case(number, "grad_first"), atol=1e-9, rtol=0)
    torch.testing.assert_close(benign.grad, case(number, "grad_second"), atol=1e-9, rtol=0)


def naive(a: list[list[float]], b: list[list[float]], y: list[int], w: list[float]) -> float:
    e, n = 1e-7, len(y)

    def rho(rows: list[list[float]]) -> list[list[float]]:
        units = [[v / (math.sqrt(sum(u * u for u in row)) + e) for v in row] for row in rows]
        d = [[1 - sum(p * q for p, q in zip(r, s, strict=True)) for s in units] for r in units]
        return [
            [0.0 if i == j else d[i][j] - min(d[i][k] for k in range(n) if k != i) for j in range(n)] for i in range(n)
        ]

    def clip(v: float) -> float:
        return min(max(v, e), 2 - e)

    da, db = rho(a), rho(b)
    p, q = [], []
    for i in range(n):
        target = []
        for j in range(n):
            unsure = math.tanh((w[i] + w[j]) / 32)
            target.append(clip((1 - unsure) * db[i][j] + 2 * (1 if y[i] != y[j] else -1) * unsure))
        p.append([1 - t / 2 for t in target])
        q.append([1 - clip(d) / 2 for d in da[i]])
    total = 0.0
    for i in range(n):
        for j in range(n):
            pij, qij = p[i][j] / sum(p[i]), q[i][j] / sum(q[i])
            total += pij * math.log((pij + e) / (qij + e)) + (1 - pij) * math.log((1 - pij + e) / (1 - qij + e))
    return total / n


def test_is_the_double_loop_on_fresh_numbers() -> None:
    torch.manual_seed(3)
    a, b = torch.randn(9, 5, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    labels, weight = torch.randint(3, (9,)), torch.rand(9, dtype=torch.float64) * 5

    loss = genetic_regularization(a, b, labels, weight=weight)

    assert float(loss) == pytest.approx(naive(a.tolist(), b.tolist(), labels.tolist(), weight.tolist()), abs=1e-10)


def test_is_zero_where_both_graphs_and_the_labels_agree() -> None:
    features = torch.randn(8, 4, dtype=torch.float64)
    zero = torch.zeros(8, dtype=torch.float64)
    loss = genetic_regularization(features, features, torch.arange(8), weight=zero)
    assert float(loss) == pytest.approx(0, abs=1e-12)


def test_no_gradient_flows_through_the_weight() -> None:
    weight = torch.rand(6, requires_grad=True)
    features = torch.randn(6, 4, requires_grad=True)
    genetic_regularization(features, torch.randn(6, 4), torch.arange(6) % 2, weight=weight).backward()
    assert weight.grad is None
    assert features.grad is not None
