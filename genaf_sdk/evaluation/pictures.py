"""Which test images the report shows, and what the models say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genaf_sdk.report.gallery import stored_picture
from genaf_sdk.report.sections import GalleryImage, GallerySection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from genaf_sdk.inputs.perturbation import Perturbation

MOST_IMAGES, SMALL = 6, 48
"""Up to so many images; four where they are larger than ``SMALL`` pixels."""


def chosen_images(labels: Tensor, size: tuple[int, int]) -> list[int]:
    """Return which test images are shown: the first of each class, in the order given, then the next ones.

    The rule looks at no prediction.

    Args:
        labels: Classes (N,), in the order of the evaluation.
        size: (H, W) of the images.
    """
    firsts: dict[int, int] = {}
    for index, label in enumerate(labels.tolist()):
        firsts.setdefault(label, index)
    first = set(firsts.values())
    order = [*firsts.values(), *(index for index in range(len(labels)) if index not in first)]
    return sorted(order[: MOST_IMAGES if max(size) <= SMALL else 4])


def gallery_section(
    images: Tensor,
    labels: Tensor,
    predict: Mapping[str, Callable[[Tensor], Tensor]],
    perturbations: Mapping[str, Perturbation],
) -> GallerySection | None:
    """Record what each model says of the chosen images, clean and perturbed.

    Args:
        images: What ``chosen_images`` chose, (M, C, H, W) in [0, 1].
        labels: Their classes (M,).
        predict: Model name -> function from pixels to classes (M,).
        perturbations: What was crafted, by name.

    Returns:
        The section; None where the images have neither one nor three channels.
    """
    if images.shape[1] not in (1, 3):
        return None
    inputs = {"": images} | {name: perturbation.apply(images) for name, perturbation in perturbations.items()}
    return GallerySection(
        images=[
            GalleryImage(stored_picture(image), label) for image, label in zip(images, labels.tolist(), strict=True)
        ],
        predictions={
            name: {model: function(batch).tolist() for model, function in predict.items()}
            for name, batch in inputs.items()
        },
    )
