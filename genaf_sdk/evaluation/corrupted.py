"""Accuracy under common corruptions: every kind and strength on the same few test images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genaf_sdk.data.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from genaf_sdk.data.sampling import Sample
from genaf_sdk.inputs.images import image_space
from genaf_sdk.report.corruptions import CorruptionRow, CorruptionSection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genaf_sdk.evaluation.model import EvaluatedModel


def corruption_section(
    models: Sequence[EvaluatedModel], sample: Sample, count: int, on_kind: Callable[[str], object] = str
) -> CorruptionSection:
    """Count what the models get right of the first ``count`` images of a sample, corrupted in every way.

    Random choices follow from an image's place in the test split, so that they are the same in every evaluation.

    Args:
        models: Those under test; all see the very same images.
        sample: Test images in the evaluation's order.
        count: How many of the first of them are used.
        on_kind: Called with the name of each kind before it.

    Raises:
        AttackError: A model gives NaN, or something else than logits.
    """
    few = Sample(sample.images, sample.order[:count])
    counts = {(model.name, kind): [0] * len(STRENGTHS) for model in models for kind in CORRUPTIONS}
    done = 0
    for pixels, labels in few.batches():
        keys = few.order[done : done + len(labels)].tolist()
        done += len(labels)
        for kind in CORRUPTIONS:
            on_kind(f"corruptions: {kind}")
            for level, strength in enumerate(STRENGTHS):
                images = corrupted(pixels, kind, strength, keys)
                images = image_space(images).arranged(images)
                for model in models:
                    counts[model.name, kind][level] += int((model.predict(images) == labels).sum())
    return CorruptionSection([CorruptionRow(name, kind, len(few), right) for (name, kind), right in counts.items()])
