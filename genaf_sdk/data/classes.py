"""Class names: what a label is called, and how the labels of two sources, or of data and a model, are brought together.

A label is a number, and two numbers mean the same class only if they carry the same name. Wherever two numberings meet,
``label_map`` maps one to the other by name, or refuses.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, Any

from genaf_sdk.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAMED = 5  # so many classes are named in an error; the others are counted


def numbered(count: int) -> tuple[str, ...]:
    """Return the names of classes that carry none: ``"0"``, ``"1"``, ..."""
    return tuple(str(label) for label in range(count))


def checked_names(names: Sequence[Any], where: str) -> tuple[str, ...]:
    """Return class names as text in Unicode's form NFC, in which equal names are equal text.

    Args:
        names: One for each class, in the order of the labels.
        where: Whose names they are, for errors.

    Raises:
        DataError: A name is empty, cannot be written as UTF-8, or is there twice.
    """
    found = tuple(unicodedata.normalize("NFC", str(name)) for name in names)
    for name in found:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            written = name.encode("utf-8", "surrogateescape")
            raise DataError(
                f"The class name {written!r} of {where} is not UTF-8.",
                expected="names in UTF-8, as the report and the model's files are",
                remedy="rename it (convmv -f latin1 -t utf8 renames whole folders)",
            ) from error
        if not name.strip():
            raise DataError(f"{where} has a class with an empty name.", expected="a name for each class")
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise DataError(
            f"The class name {twice[0]!r} is there twice in {where}.",
            expected="a name of its own for each class",
            remedy="rename one, so that the two can be told apart",
        )
    return found


def names_by_label(numbers: Mapping[Any, Any], where: str) -> tuple[str, ...] | None:
    """Return class names by label, from name -> label or label -> name; None where several names share a label.

    Raises:
        DataError: The labels are not 0 to K - 1.
    """
    if numbers and all(_is_label(key) for key in numbers) and not all(_is_label(value) for value in numbers.values()):
        numbers = {name: label for label, name in numbers.items()}
    labels = list(numbers.values())
    if not all(map(_is_label, labels)) or set(labels) != set(range(len(set(labels)))):
        raise DataError(
            f"The classes of {where} are numbered {str(labels)[:80]}.", expected="the labels 0 to K - 1 of K classes"
        )
    if len(set(labels)) < len(labels):
        return None
    return checked_names(sorted(numbers, key=lambda name: int(numbers[name])), where)


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def require_same_names(names: Sequence[str], wanted: Sequence[str], given: str, expected: str) -> None:
    """Check that two sources have the same classes, in whatever order.

    Args:
        names: Class names of one source.
        wanted: Those of the other.
        given: What the first is, for the error.
        expected: What the second is.

    Raises:
        DataError: They differ; the error names what is missing and what is too many.
    """
    missing, extra = [n for n in wanted if n not in names], [n for n in names if n not in wanted]
    if not missing and not extra:
        return
    parts = [f"{given} lacks {_listed(missing)}"] if missing else []
    parts += [f"{'it' if missing else given} has {_listed(extra)}, which {expected} lacks"] if extra else []
    folded = {name.casefold().strip(): name for name in missing}
    near = next(((name, folded[key]) for name in extra if (key := name.casefold().strip()) in folded), None)
    raise DataError(
        f"The classes differ: {' and '.join(parts)}.",
        expected=f"the same class names as {expected}",
        remedy=f"rename {near[0]!r} to {near[1]!r}" if near else "remove, add or rename classes until the names agree",
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"class{'es' if len(names) > 1 else ''} {', '.join(map(repr, names[:NAMED]))}{more}"


def label_map(
    names: Sequence[str] | None, wanted: Sequence[str], *, given: str, expected: str
) -> tuple[list[int] | None, str]:
    """Return how the labels of one source become those of another, by the names of the classes.

    Args:
        names: Class names in the order of the labels; None, or ``numbered``, where the labels carry no names.
        wanted: Names in the order that the labels shall have.
        given: What has ``names``, for errors and notes.
        expected: What has ``wanted``.

    Returns:
        The new label of each old one, or None where nothing changes; and a note, empty where there is nothing to say.
        Labels without names are taken as positions in ``wanted``, which the note says.

    Raises:
        DataError: The classes differ.
    """
    names, wanted = None if names is None else tuple(names), tuple(wanted)
    if names == wanted:
        return None, ""
    if names is not None and set(names) == set(wanted):
        return [wanted.index(name) for name in names], f"the labels of {given} were mapped by class name to {expected}"
    unnamed = names is None or (names == numbered(len(wanted)) and not all(name.isdecimal() for name in wanted))
    if unnamed:
        return None, f"{given} has no class names: its labels were taken as positions in {expected}"
    require_same_names(names or (), wanted, given, expected)
    return None, ""
