"""Weights and graphs of a bundle are one model: the same answers on clean, perturbed and random images."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import torch

from genaf_sdk.errors import EncoderError, GenafError
from genaf_sdk.export.layout import MODEL_FILE
from genaf_sdk.export.outcome import WEIGHTS_TIE, Item, not_replayed, recomputed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from genaf_sdk.data.sampling import Sample
    from genaf_sdk.export.runtime import OnnxModel
    from genaf_sdk.inputs.perturbation import Perturbation

CLEAN, PERTURBED, RANDOM = 32, 8, 16
"""Images of each kind; perturbed ones for each perturbation."""
EXACT, MEDIAN, AGREEMENT = 1e-3, 0.25, 0.8
"""Largest difference of logits in fp32, relative to those of the same image. Of smaller files, the median over images,
and the share of images on which the class is the same."""


def trial_images(sample: Sample, perturbations: Mapping[str, Perturbation]) -> Tensor:
    """Return images that tell two models apart, (N, C, H, W) in [0, 1]: clean, perturbed, and random ones.

    The random ones are of a seed that nobody knew beforehand.

    Args:
        sample: Test images.
        perturbations: The bundle's.
    """
    clean = sample.first(CLEAN)[0]
    generator = torch.Generator().manual_seed(secrets.randbits(62))
    uniform = torch.rand((RANDOM, *clean.shape[1:]), generator=generator)
    blurred = torch.nn.functional.interpolate(uniform[:, :, ::4, ::4], clean.shape[2:], mode="bilinear")
    attacked = [perturbation.apply(clean[:PERTURBED]) for perturbation in perturbations.values()]
    return torch.cat([clean, *attacked, uniform, blurred])


def check_ties(
    graphs: Mapping[str, OnnxModel], load: Callable[[], Callable[[Tensor], Tensor]], images: Tensor, *, named: bool
) -> list[Item]:
    """Compare the weights, and every other graph, with ``model.onnx``.

    Args:
        graphs: The bundle's ONNX models by file name; ``model.onnx`` is one.
        load: Returns the model of ``model.safetensors``; ``EncoderError`` where nothing says how to build it.
        images: What ``trial_images`` gave.
        named: Whether the bundle names its encoder. A name that builds nothing is refused: it would keep the weights
            from being compared. Without one, the architecture is a module of the publisher's own, which only the caller
            can bring: that is listed, not refused, as no honest bundle of such a module could be verified otherwise.
    """
    expected = graphs[MODEL_FILE](images)
    items = [_weights(load, images, expected, named=named)]
    for name, graph in graphs.items():
        if name != MODEL_FILE:
            items.append(_smaller(name, graph(images), expected))
    return items


def _weights(load: Callable[[], Callable[[Tensor], Tensor]], images: Tensor, expected: Tensor, *, named: bool) -> Item:
    what = WEIGHTS_TIE
    try:
        model = load()
        with torch.no_grad():
            logits = model(images)
    except EncoderError as error:
        if named:
            return recomputed(what, False, "one model", str(error))
        return not_replayed(what, "", f"{error.problem} Pass backbone= to compare them.")
    except GenafError as error:
        return recomputed(what, False, "one model", error.problem)
    if logits.shape != expected.shape:
        return recomputed(what, False, f"{expected.shape[1]} classes", f"{logits.shape[1]} classes")
    difference = float(_apart(logits, expected).max())
    return recomputed(what, difference <= EXACT, "the same logits", f"they differ by {difference:.1e}")


def _smaller(name: str, logits: Tensor, expected: Tensor) -> Item:
    what = f"{name} against {MODEL_FILE}"
    if logits.shape != expected.shape:
        return recomputed(what, False, f"{expected.shape[1]} classes", f"{logits.shape[1]} classes")
    median = float(_apart(logits, expected).median())
    same = float((logits.argmax(dim=1) == expected.argmax(dim=1)).float().mean())
    found = f"the same class on {same:.0%} of {len(logits)} images, median difference of logits {median:.1e}"
    return recomputed(what, median <= MEDIAN and same >= AGREEMENT, "the same answers", found)


def _apart(logits: Tensor, expected: Tensor) -> Tensor:
    """Return the largest difference of each image, (N,), relative to its own largest logit (at least 1).

    Not to that of all images: one that is answered with huge numbers would hide what becomes of the others.
    """
    return (logits - expected).abs().amax(dim=1) / expected.abs().amax(dim=1).clamp(min=1.0)
