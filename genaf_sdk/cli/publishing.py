"""``genaf push``."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from genaf_sdk.cli.output import DONE, Command, console
from genaf_sdk.errors import HubError

if TYPE_CHECKING:
    from genaf_sdk.export.integrity import BundleFile


@dataclass(frozen=True)
class Push(Command):
    """Publish a bundle on the Hugging Face Hub, in one commit. What goes up is shown first."""

    bundle: Annotated[Path, tyro.conf.Positional]
    """Folder that `genaf harden` left."""
    repo: Annotated[str, tyro.conf.Positional]
    """ORG/NAME; made if it does not exist."""
    private: bool = True
    """Make a new repository private."""
    pictures: bool = False
    """Publish the test images in the report's gallery, too."""
    revision: str | None = None
    """Branch to commit to."""
    create_pr: bool = False
    """Open a pull request instead."""
    yes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Do not ask on a terminal whether the files shown may go up."""

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.export.hub import push_bundle

        shown: list[BundleFile] = []

        def show(files: list[BundleFile]) -> None:
            shown.extend(files)
            self._show(files)

        url = push_bundle(
            self.bundle,
            self.repo,
            private=self.private,
            pictures=self.pictures,
            revision=self.revision,
            create_pr=self.create_pr,
            on_files=show,
        )
        self.answer({"url": url, "files": [asdict(file) for file in shown]}, url)
        return DONE

    def _show(self, files: list[BundleFile]) -> None:
        """Say what goes up, and on a terminal ask.

        Raises:
            HubError: The answer is no.
        """
        said = console(stderr=True)
        kind = "private" if self.private else "PUBLIC"
        megabytes = sum(file.size for file in files) / 1e6
        said.print(f"{len(files)} files, {megabytes:.1f} MB, to {self.repo} ({kind} if it is new):")
        for file in files:
            said.print(f"  {file.size:>12,} {file.name}")
        if self.yes or self.json or not (sys.stdin.isatty() and said.is_terminal):
            return
        if said.input("Publish these? [y/N] ").strip().lower() not in ("y", "yes"):
            raise HubError("Nothing was published.", expected="y", remedy="answer y, or pass --yes")
