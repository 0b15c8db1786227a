"""The sections of a report beside its rows: data, model, stage 2, cost, classes, gallery."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from genaf_sdk.errors import OutputError
from genaf_sdk.inputs.images import Interpolation
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.reading import Amount, Length, Number, Pattern, Positive, Rest
from genaf_sdk.settings import Between, Share

Side = Annotated[int, Between(1, 8192)]
PNG_LENGTH = 200_000
"""Most characters of one picture in base64: a PNG of 96 x 96 pixels that cannot be compressed has 37,000."""


@dataclass
class Sizes:
    """Number of images by split.

    Args:
        train: What the model learned from.
        validation: What decided between models.
        test: What was touched once, for the report.
    """

    train: Number
    validation: Number
    test: Positive


@dataclass
class DataDescription:
    """The images of the task, as ``DataSplits.describe()`` gives them.

    Args:
        name: Data id, or name of the folder.
        sizes: Number of images by split.
        class_names: One name a class, in the order of the labels.
        image_shape: Channels, height, width.
        fingerprint: SHA-256 of labels and images.
        notes: What was decided for the user.
        class_counts: Number of training images by class.
        interpolation: How images of another size were resized.
    """

    open: ClassVar[bool] = True  # data may say more of itself

    name: str
    sizes: Sizes
    class_names: Annotated[list[str], Length(2, 100_000)]
    image_shape: tuple[Annotated[int, Between(1, 64)], Side, Side]
    fingerprint: Annotated[str, Pattern("[0-9a-f]{64}")]
    notes: list[str] = field(default_factory=list)
    class_counts: list[Number] | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.class_counts is not None and len(self.class_counts) != len(self.class_names):
            raise OutputError(
                f"class_counts has {len(self.class_counts)} numbers for {len(self.class_names)} classes.",
                expected="one a class",
            )


@dataclass
class ModelDescription:
    """The hardened model.

    Args:
        encoder: Id of the published encoder, or the type of a module of the user's own.
        image_size: Height, width.
        channels: Of an image.
        classes: How many it tells apart.
        parameters: How many it has.
    """

    open: ClassVar[bool] = True

    encoder: str
    image_size: tuple[Side, Side]
    channels: Annotated[int, Between(1, 64)]
    classes: Positive
    parameters: Number


@dataclass
class EpochRecord:
    """One epoch of training.

    Args:
        stage: Which training.
        epoch: Its number in the stage, from 1.
        seconds: How long it took.
        figures: Losses and accuracies by name; in the file they stand beside the others.
    """

    stage: str
    epoch: Positive
    seconds: Amount
    figures: Annotated[dict[str, float], Rest()] = field(default_factory=dict)


@dataclass
class RangeTestSection:
    """How the encoder's learning rate was chosen: by a ramp at the start of a stage, which was undone.

    Args:
        rates: Learning rate of the encoder at every step of the ramp.
        losses: The stage's loss on the batch of that step, before it.
        chosen: The learning rate that the stage used.
    """

    rates: list[Amount]
    losses: list[float]
    chosen: Amount

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.losses):
            raise OutputError(
                f"A range test has {len(self.rates)} learning rates and {len(self.losses)} losses.",
                expected="one loss a rate",
            )


@dataclass
class InterpolationPoint:
    """One point between the weights of stage 1 and the fine-tuned ones, measured on validation images.

    Args:
        share: Interpolation coefficient: 0 is stage 1, 1 the fine-tuned weights.
        clean_accuracy: Without an attack.
        universal_accuracy: Lowest over the universal perturbations of stage 1; 1 where it kept none.
        sample_wise_accuracy: Under a small PGD.
    """

    share: Share
    clean_accuracy: Share
    universal_accuracy: Share
    sample_wise_accuracy: Share


@dataclass
class AdaptationSection:
    """Stage 2.

    Args:
        layers: Weights that were fine-tuned, least sensitive first.
        points: Those that the guard attacked: stage 1, and what is better on clean images, until one was kept.
        share: The point that was kept.
        skipped: Why it came to no more than a probe, which was undone; empty where it ran.
    """

    layers: list[str]
    points: list[InterpolationPoint]
    share: Share
    skipped: str = ""


@dataclass
class GpuMemory:
    """Memory of one GPU.

    Args:
        name: Its name.
        peak_memory: Most bytes that torch had allocated on it.
    """

    name: str
    peak_memory: Number


@dataclass
class Energy:
    """Energy of whole packages or GPUs, whatever else ran on them.

    Args:
        joules: None where it cannot be read.
        reason: Why it cannot.
    """

    joules: Amount | None
    reason: str | None = None


@dataclass
class EnergySection:
    """Energy by part of the machine.

    Args:
        cpu: Of the CPU packages.
        gpu: Of the GPUs.
    """

    cpu: Energy
    gpu: Energy


@dataclass
class CostSection:
    """Memory and energy of the run, on the process that wrote the report.

    Args:
        peak_memory: Most main memory of the process since it started, in bytes; None where it cannot be read.
        gpus: Memory of each GPU.
        energy: In joules.
    """

    peak_memory: Number | None
    gpus: list[GpuMemory]
    energy: EnergySection


@dataclass
class Confusion:
    """How often one class was taken for another.

    Args:
        true: Index of the true class.
        predicted: Index of the predicted class.
        count: Number of images.
    """

    true: Number
    predicted: Number
    count: Positive


@dataclass
class ClassCounts:
    """Right predictions of one model by class.

    Args:
        n: Number of test images by class.
        clean: How many of them are classified right without an attack.
        attacked: How many under the universal attack that leaves this model the fewest; None where none was crafted.
        column: What that attacker knew.
        attack: Its name.
        perturbation: Name of its file in ``perturbations/``, without its ending.
        confusions: Errors under that attack, most frequent first.
        omitted: Images whose confusion was left out because there are too many pairs.
    """

    n: list[Number]
    clean: list[Number]
    attacked: list[Number] | None = None
    column: Knowledge | None = None
    attack: str = ""
    perturbation: str = ""
    confusions: list[Confusion] = field(default_factory=list)
    omitted: Number = 0

    def __post_init__(self) -> None:
        for counts in (self.clean, self.attacked or self.n):
            if len(counts) != len(self.n) or any(count > n for count, n in zip(counts, self.n, strict=True)):
                raise OutputError(
                    f"{counts!r:.100} images are right of {self.n!r:.100}.", expected="at most all of every class"
                )


@dataclass
class GalleryImage:
    """A test image.

    Args:
        png: The clean image as PNG of at most 96 x 96 pixels, in base64.
        label: Index of its class.
    """

    png: Annotated[str, Length(1, PNG_LENGTH)]
    label: Number


@dataclass
class GallerySection:
    """Test images for the gallery of report.html; the perturbed ones follow from perturbations/.

    Args:
        images: A few test images, chosen without looking at predictions.
        predictions: Predicted classes of the images, by name of the perturbation (empty: clean images), then by model.
    """

    images: Annotated[list[GalleryImage], Length(0, 16)]
    predictions: dict[str, dict[str, list[Number]]]

    def __post_init__(self) -> None:
        listed = [classes for models in self.predictions.values() for classes in models.values()]
        if any(len(classes) != len(self.images) for classes in listed) or (self.images and "" not in self.predictions):
            raise OutputError(
                f"The predictions do not belong to {len(self.images)} images.",
                expected="one class an image for each perturbation and model, and for the clean images",
            )


Config = dict[str, Any]
"""All settings of a run, as ``HardenConfig.from_dict`` reads them: the one section that is left open."""
