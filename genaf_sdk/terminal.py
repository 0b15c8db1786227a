"""What people see on a terminal: foreign text is shown, never obeyed, and a reader who has gone stops nothing."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from rich.text import Text

LAYOUT = "\n\t"  # what lines and columns are made of
UNSEEN = re.compile("[^\x20-\x7e\n\t]")


def printable(text: str) -> str:
    r"""Return ``text`` with everything that steers a terminal, or shows as nothing, spelt out: ``\x1b``, ``\u202e``.

    Names and texts come from reports, file names and repositories of others. Escape sequences would move the cursor or
    set the window's title; directional marks would turn words round; lone surrogates cannot be encoded at all.
    """
    return UNSEEN.sub(lambda found: found[0] if _shows(found[0]) else _spelt(found[0]), text)


def json_text(content: Any) -> str:
    """Return ``content`` as indented JSON that a terminal can show: what ``printable`` spells out, JSON escapes."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return UNSEEN.sub(lambda found: found[0] if _shows(found[0]) else json.dumps(found[0])[1:-1], text)


class PlainConsole(Console):
    """A console that takes strings for text: no markup, no emoji codes, no escape sequences; styles are ``Text``.

    A reader who has gone ends what is shown, not the program.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string, of a line or of a table's cell, as text."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """Say nothing any more."""
        self.quiet = True


def _shows(character: str) -> bool:
    return character in LAYOUT or character.isprintable() or unicodedata.category(character) == "Zs"


def _spelt(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
