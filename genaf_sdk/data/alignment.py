"""Data and models: labels that are numbered as a model numbers its classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from genaf_sdk.data.classes import checked_names, label_map, require_same_names
from genaf_sdk.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from genaf_sdk.data.splits import DataSplits


def aligned(data: DataSplits, class_names: Sequence[str] | None, *, model: str = "the model") -> DataSplits:
    """Return data whose labels are numbered as a model numbers its classes. Call it wherever a model meets data.

    Args:
        data: The images and their class names.
        class_names: The model's, in the order of its logits; None where the model carries none: the labels then are
            taken as its outputs, as they are.
        model: What the model is called in errors and notes.

    Returns:
        ``data`` itself where the order is the same; else the same images with other labels, the model's names, and a
        note that says so.

    Raises:
        DataError: The classes differ; the error names those that are missing and those that are too many.
    """
    if class_names is None:
        return data
    wanted = checked_names(class_names, model)
    if data.class_names == wanted:
        return data
    mapping, note = label_map(data.class_names, wanted, given=f"the data {data.name!r}", expected=model)
    table = torch.tensor(range(len(wanted)) if mapping is None else mapping)
    train, validation, test = (images.relabelled(table[images.labels]) for images in data.splits().values())
    notes = (*data.notes, note)
    return replace(data, train=train, validation=validation, test=test, class_names=wanted, notes=notes)


def aligned_to_all(data: DataSplits, models: Mapping[str, Any]) -> DataSplits:
    """Return data whose labels are numbered as models that are measured side by side number their classes.

    Args:
        data: The images and their class names.
        models: What each model is called -> the classifier; one that carries no class names takes the labels as they
            are.

    Raises:
        DataError: The classes of the data are not the models', or two models number them differently.
    """
    named = [(title, names) for title, model in models.items() if (names := names_of_model(model)) is not None]
    if not named:
        return data
    (first, wanted), *others = named
    for title, names in others:
        require_same_names(names, wanted, title, first)
        if names != wanted:
            raise DataError(
                f"The classes of {title} are in another order than those of {first}.",
                expected="models with the same class names in the same order",
                remedy="evaluate each by itself",
            )
    return aligned(data, wanted, model=first)


def names_of_model(model: Any) -> tuple[str, ...] | None:
    """Return the class names of a classifier, or of the ``model`` of a result; None where it carries none."""
    names = getattr(getattr(model, "model", model), "class_names", None)
    return checked_names(names, "the model") if isinstance(names, (list, tuple)) and names else None
