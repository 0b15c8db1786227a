"""What is proven of a model, apart from what was measured: the section, and the sentences about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from genaf_sdk.errors import OutputError
from genaf_sdk.report.reading import Length, Number, Positive
from genaf_sdk.report.scores import wilson_interval
from genaf_sdk.report.sections import Side
from genaf_sdk.settings import Between, Epsilon, Share

MaskCount = Annotated[int, Between(1, 16)]


@dataclass
class CertificateSection:
    """Certificates of the hardened model against one patch, by double masking (PatchCleanser).

    Args:
        area: Share of the image that was asked for.
        patch: Rows and columns: every patch that fits in them, anywhere, of any content, is covered.
        image: Rows and columns of the images as the network takes them.
        masks_per_axis: How many masks an axis were asked for.
        masks: How many masks there are.
        mask: Rows and columns of a mask.
        fill: What masked pixels become, one number a channel.
        n: Number of test images, the first in the evaluation's order.
        clean: How many the model itself classifies right, without masks.
        answered: How many the defended answer classifies right, without a patch.
        certified: For how many it is right and no such patch can change it.
    """

    derived: ClassVar[dict[str, str]] = {"accuracy": "accuracy", "interval": "interval"}

    area: Epsilon
    patch: tuple[Side, Side]
    image: tuple[Side, Side]
    masks_per_axis: MaskCount
    masks: Positive
    mask: tuple[Side, Side]
    fill: Annotated[list[Share], Length(1, 64)]
    n: Positive
    clean: Number
    answered: Number
    certified: Number

    def __post_init__(self) -> None:
        if not self.certified <= self.answered <= self.n or self.clean > self.n:
            raise OutputError(
                f"{self.certified} certified and {self.answered} right answers are counted of {self.n} images.",
                expected="at most as many certified ones as right ones, and as many of these as images",
            )

    @property
    def accuracy(self) -> float:
        """Certified accuracy, a share in [0, 1]: certified / n."""
        return self.certified / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the certified accuracy: how far that of other images of the task may lie from it."""
        return wilson_interval(self.certified, self.n)

    @property
    def patch_text(self) -> str:
        """Which patches are covered."""
        return f"one patch of at most {self.patch[0]} x {self.patch[1]} of {self.image[0]} x {self.image[1]} pixels"


def proven(section: CertificateSection | None) -> str:
    """Return what is proven in one sentence for the verdict; empty without certificates."""
    if section is None:
        return ""
    low, high = section.interval
    return (
        f"Proven: with double masking, {section.accuracy:.1%} ({low:.1%} to {high:.1%}, n = {section.n}) stay right "
        f"under {section.patch_text}, anywhere and of any content. On clean images that answer is right on "
        f"{section.answered / section.n:.1%}, the plain one on {section.clean / section.n:.1%}."
    )


def certificate_limits(section: CertificateSection | None) -> list[str]:
    """Return what the certificates do not cover."""
    if section is None:
        return []
    return [
        f"The certificate belongs to the answer of double masking ({section.masks} masks of {section.mask[0]} x "
        f"{section.mask[1]} pixels), not to the model's plain answer.",
        f"It covers one patch that fits in {section.patch[0]} x {section.patch[1]} pixels of the image as the network "
        "takes it. Longer shapes of the same area, several patches, and a patch on a larger photograph that grows by "
        "resizing are not covered.",
    ]
