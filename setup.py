"""README as a package index shows it. All else about the package stands in pyproject.toml.

A link into the repository is dead there. Where GitHub builds the package, it gets the repository's address, at the
commit that is built; elsewhere the address is not known, and of a link its text remains, of a picture nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from setuptools import setup

if TYPE_CHECKING:
    from collections.abc import Mapping

PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")


def for_an_index(readme: str, environment: Mapping[str, str]) -> str:
    """Return a README without a link that leads nowhere outside of the repository."""
    names = "GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_SHA"
    if not all(environment.get(name) for name in names):
        return LINK.sub(r"\1", re.sub(rf"{PICTURE.pattern}\n\n?", "", readme))
    server, repository, commit = (environment[name] for name in names)
    readme = PICTURE.sub(rf"![\1]({server}/{repository}/raw/{commit}/\2)", readme)
    return LINK.sub(rf"[\1]({server}/{repository}/blob/{commit}/\2)", readme)


if __name__ == "__main__":
    setup(
        long_description=for_an_index(Path("README.md").read_text(encoding="utf-8"), os.environ),
        long_description_content_type="text/markdown",
    )
