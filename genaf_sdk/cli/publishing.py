"""``genaf push``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from genaf_sdk.cli.output import DONE, Command


@dataclass(frozen=True)
class Push(Command):
    """Publish a bundle on the Hugging Face Hub, in one commit."""

    bundle: Annotated[Path, tyro.conf.Positional]
    """Folder that `genaf harden` left."""
    repo: Annotated[str, tyro.conf.Positional]
    """ORG/NAME; made if it does not exist."""
    private: bool = False
    """Make a new repository private."""
    revision: str | None = None
    """Branch to commit to."""
    create_pr: bool = False
    """Open a pull request instead."""

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.export.hub import push_bundle

        url = push_bundle(
            self.bundle, self.repo, private=self.private or None, revision=self.revision, create_pr=self.create_pr
        )
        self.answer({"url": url}, url)
        return DONE
