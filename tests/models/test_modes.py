"""Modes for a block are those of before after it."""

from __future__ import annotations

import pytest
import torch

from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.models.modes import full_precision


def _set() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


def _fail_in_full_precision() -> None:
    with full_precision(torch.device("cuda")):
        assert _set() == ("ieee", "ieee")
        raise ZeroDivisionError


def test_a_gpu_computes_in_full_and_then_as_it_did() -> None:
    """Whatever was set before, also by an error, is set again."""
    before = _set()
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    chosen = _set()
    try:
        with pytest.raises(ZeroDivisionError):
            _fail_in_full_precision()
        assert _set() == chosen
    finally:
        torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before


def test_a_processor_is_left_alone() -> None:
    """Its threads share what the process has set, and compute float32 in float32 anyway."""
    before = _set()
    with full_precision(torch.device("cpu")):
        assert _set() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scores_on_a_gpu_are_those_of_the_exported_graph() -> None:
    """A convolution of many channels tells TF32 from float32."""
    convolution = torch.nn.Sequential(torch.nn.Conv2d(3, 512, 3), torch.nn.Conv2d(512, 10, 30), torch.nn.Flatten())
    pixels = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = convolution(pixels).detach()
    found = torch.cat(EvaluatedModel.of(convolution.cuda(), "hardened").logits(pixels)).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
