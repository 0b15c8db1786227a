"""Heads by name: the paper's, linear, cosine, and those of other packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.heads import HEADS, MLPHead, build_head, head_choice


def test_the_papers_head_has_its_layers_and_names() -> None:
    torch.manual_seed(0)
    head = build_head("mlp", 4, 3)
    assert isinstance(head, MLPHead)
    assert list(head.state_dict()) == [f"{layer}.{part}" for layer in (0, 3, 5) for part in ("weight", "bias")]
    features = torch.rand(5, 4)
    first, second, last = head[0], head[3], head[5]
    expected = last(torch.relu(second(torch.relu(first(features)))))
    torch.testing.assert_close(head.eval()(features), expected)


def test_a_linear_head_is_one_layer() -> None:
    head = build_head("linear", 4, 3)
    features = torch.rand(5, 4)
    torch.testing.assert_close(head(features), features @ head.weight.T + head.bias)


def test_a_cosine_head_sees_directions_alone() -> None:
    torch.manual_seed(0)
    head = build_head("cosine", 4, 3, scale=2.0)
    features = torch.rand(5, 4)
    expected = torch.stack([2 * torch.cosine_similarity(features, row[None]) for row in head.weight], dim=1)
    torch.testing.assert_close(head(features), expected)
    torch.testing.assert_close(head(7 * features), head(features))


def test_a_head_knows_how_it_was_built() -> None:
    head = build_head("mlp", 4, 3, dropout=0.5)
    assert head[2].p == 0.5
    choice = head_choice(head)
    assert choice == {"name": "mlp", "feature_dim": 4, "dropout": 0.5}
    assert head_choice(build_head(classes=3, **choice)) == choice


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_head("liner", 4, 3), "one of cosine, linear, .*try linear"),
        (lambda: build_head("linear", 4, 3, dropout=0.5), "cannot be built.*dropout"),
        (lambda: build_head("mlp", -1, 3), "cannot be built for -1 features"),
        (lambda: head_choice(nn.Linear(4, 3)), "no name describes.*entry point"),
    ],
)
def test_what_cannot_be_a_head_is_refused(call, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        call()


def test_a_head_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ours(nn.Linear):
        name = "ours"

        def __init__(self, feature_dim: int, classes: int) -> None:
            super().__init__(feature_dim, classes)

    entry = EntryPoint("ours", "some.package:Ours", HEADS.group)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Ours)
    monkeypatch.setattr("genaf_sdk.registry.entry_points", lambda group: [entry] if group == "genaf_sdk.heads" else [])
    monkeypatch.setattr(HEADS, "_items", dict(HEADS.items()))
    assert isinstance(build_head("ours", 4, 3), Ours)
