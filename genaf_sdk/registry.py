"""What has a name and can be added to by other packages: attacks, methods, heads, sources of encoders."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import logging
import sys
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from genaf_sdk.errors import GenafError

PACKAGE = __name__.partition(".")[0]
SCRIPTS = {"__main__", "__mp_main__"}
"""What Python calls the module of a script, and of the same script in a process that it starts."""

logger = logging.getLogger(__name__)


class Named(Protocol):
    """What goes into a registry: a class or function that knows its own name."""

    name: str


Item = TypeVar("Item", bound=Named)
Registered = TypeVar("Registered", bound=Named)


def nearest(name: object, names: Iterable[str], count: int = 3) -> str:
    """Return the ``names`` most like ``name``, or all of them where none is, as text for an error message."""
    known = list(names)
    return ", ".join(difflib.get_close_matches(str(name), known, n=count) or known)


def unknown(problem: str, name: object, names: Iterable[str], error: type[GenafError]) -> GenafError:
    """Return the error for a name that is none of ``names``: it lists all, and says which are most like it."""
    known = list(names)
    near = difflib.get_close_matches(str(name), known, n=5)
    return error(problem, expected=f"one of {', '.join(known)}", remedy=f"try {', '.join(near)}" if near else "")


class Registry(Generic[Item]):
    """Items by name. Other packages add theirs by an entry point, whose name is the item's.

    Args:
        noun: What an item is, for error messages, such as ``attack``.
        group: Group of the entry points, such as ``genaf_sdk.attacks``.
        error: What is raised about names.
    """

    def __init__(self, noun: str, group: str, error: type[GenafError]) -> None:
        self.noun, self.group, self.error = noun, group, error
        self._items: dict[str, Item] = {}
        self._broken: dict[str, str] = {}

    def register(self, item: Registered) -> Registered:
        """Class decorator: make an item known by its ``name``.

        Raises:
            GenafError: Another item has that name.
        """
        known = self._items.get(item.name)
        if known is not None and _identity(known) != _identity(item):
            raise self.error(
                f"Two {self.noun}s are named {item.name!r}: {_identity(known)} and {_identity(item)}.",
                remedy="rename one",
            )
        self._items[item.name] = item  # type: ignore[assignment]  # a subclass of what is registered
        return item

    def items(self) -> dict[str, Item]:
        """Return everything that is known by name, in alphabetical order, that of other packages included."""
        self._load_entry_points()
        return dict(sorted(self._items.items()))

    def __getitem__(self, name: str) -> Item:
        """Return the item of that name.

        Raises:
            GenafError: There is none, or the package that has it cannot be loaded; the nearest names are listed.
        """
        known = self._items if isinstance(name, str) and name in self._items else self.items()
        if isinstance(name, str) and name in known:
            return known[name]
        if isinstance(name, str) and name in self._broken:
            raise self.error(
                f"The {self.noun} {name!r} cannot be loaded: {self._broken[name]}.",
                remedy="fix or uninstall the package that has it",
            )
        raise unknown(f"There is no {self.noun} {name!r}.", name, known, self.error)

    def __contains__(self, name: object) -> bool:
        """Return whether there is an item of that name."""
        return name in self._items or name in self.items()

    def _load_entry_points(self) -> None:
        for entry in entry_points(group=self.group):
            if entry.name in self._items or entry.name in self._broken:
                continue
            try:
                self.register(entry.load())
            except Exception as error:  # foreign code: one broken package must not cost all others
                self._broken[entry.name] = f"{type(error).__name__}: {error}"
                logger.warning(
                    "The %s %r of %s cannot be loaded: %s", self.noun, entry.name, entry.value, self._broken[entry.name]
                )


def code_of_others(kinds: Iterable[Any]) -> str:
    """Return a hash of the code of classes that are not of this package, nor all that they inherit; empty without any.

    It is that of the whole file, as helpers stand beside a class; of a script or notebook, which goes on for other
    reasons, that of the class alone, where its source can be read.
    """
    classes = {each for kind in kinds for each in getattr(kind, "__mro__", (kind,))}
    found = {source for each in classes if (source := _source(each))}
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()[:16] if found else ""


@cache  # what runs here is the code of when it was imported, whatever becomes of the file meanwhile
def _source(kind: Any) -> str:
    module = kind.__module__
    if module.partition(".")[0] in (PACKAGE, "torch", *sys.stdlib_module_names):
        return ""
    try:
        return inspect.getsource(kind if module in SCRIPTS else sys.modules.get(module, kind))
    except (OSError, TypeError):  # typed at a prompt
        return ""


def _identity(item: object) -> str:
    """Return where an item was defined; a module that is loaded anew defines the same one again."""
    return f"{getattr(item, '__module__', '?')}.{getattr(item, '__qualname__', repr(item))}"
