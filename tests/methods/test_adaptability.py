from __future__ import annotations

import copy
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import nn

from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.stage import Run
from genaf_sdk.methods.adaptability import GuardPoint, adaptability_finetuning, choose
from genaf_sdk.models.classifier import HardenedModel
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import Head


def test_only_the_chosen_layer_moves_and_normalisation_stays(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    torch.manual_seed(0)
    model = HardenedModel(PixelEncoder(tiny_encoder), Head(16, 3), class_names="abc", image_size=(16, 16))
    before = copy.deepcopy(model.state_dict())
    config = replace(quick_config, adaptability=replace(quick_config.adaptability, tolerance=1.0))
    run = Run(Accelerator(cpu=True), show_progress=False)

    adaptation = adaptability_finetuning(run, model, striped, config, ["head.3.weight"], torch.zeros(1, 3, 16, 16))

    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved <= {"head.3.weight"}
    assert bool(moved) == (adaptation.share > 0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [point.share for point in adaptation.points] == [0.0, 0.5, 1.0]
    best = max(point.clean_accuracy for point in adaptation.points)
    assert next(p for p in adaptation.points if p.share == adaptation.share).clean_accuracy == best


def test_the_guard_keeps_the_best_point_that_is_as_robust_as_stage_1() -> None:
    points = [
        GuardPoint(0.0, 0.90, 0.80, 0.50),
        GuardPoint(0.5, 0.93, 0.80, 0.51),
        GuardPoint(0.7, 0.94, 0.79, 0.52),
        GuardPoint(1.0, 0.95, 0.85, 0.45),
    ]
    assert choose(points, 0.0).share == 0.5
    assert choose(points, 0.01).share == 0.7
    assert choose(points, 0.05).share == 1.0


def test_of_equal_points_the_one_nearest_to_stage_1_is_kept() -> None:
    points = [GuardPoint(share, 0.9, 0.8, 0.5) for share in (0.0, 0.5, 1.0)]
    assert choose(points, 0.0).share == 0.0
