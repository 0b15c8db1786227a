"""The sections of a report on exported files: parity with the model, replay of the perturbations, variants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from genaf_sdk.report.reading import Amount, Number, Pattern, Positive
from genaf_sdk.settings import Between, Share


@dataclass
class ParitySection:
    """The exported file against the model.

    Args:
        differences: Largest difference of logits, relative to their largest absolute value, by batch size.
        tolerance: Largest difference that passes.
    """

    differences: dict[str, Amount]
    tolerance: Amount


@dataclass
class ReplayRow:
    """Accuracy of an exported file under one saved perturbation.

    Args:
        perturbation: Name of its file, without the ending; empty for clean images.
        n: Number of test images.
        correct: How many are classified right.
        accuracy: Their share.
    """

    perturbation: str
    n: Positive
    correct: Number
    accuracy: Share


@dataclass
class VariantSection:
    """A smaller or faster file that was tried.

    Args:
        file: Its name in the bundle.
        written: Whether it was kept.
        agreement: Share of the clean test images on which its label is that of the fp32 file.
        largest_loss: Largest loss of accuracy against the fp32 file, clean or under a perturbation.
        replay: Accuracy on clean images and under every saved perturbation.
        bytes: Size of the file.
    """

    file: Annotated[str, Pattern(r"model\.[a-z0-9]+\.onnx")]
    written: bool
    agreement: Share
    largest_loss: Annotated[float, Between(-1.0, 1.0)]
    replay: list[ReplayRow]
    bytes: Number


@dataclass
class OnnxSection:
    """The exported files.

    Args:
        text: Their difference from the model in one line.
        parity: The same in numbers.
        replay: Accuracies of ``model.onnx``.
        variants: What else was exported.
    """

    text: str
    parity: ParitySection
    replay: list[ReplayRow]
    variants: list[VariantSection] = field(default_factory=list)
