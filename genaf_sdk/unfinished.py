"""What a comparison has done of rows that are not there yet: below its folder, until they are."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genaf_sdk.errors import OutputError
from genaf_sdk.files import trial_folder
from genaf_sdk.locks import locked_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genaf_sdk.rows import ComparisonRow

FOLDER, TRANSFERRED = "unfinished", "transferred"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unfinished:
    """The part of a comparison's folder that goes when its rows are there.

    Args:
        comparison: Its folder; None keeps nothing, and neither does a machine that does not have it.
    """

    comparison: Path | None

    @property
    def folder(self) -> Path | None:
        """Where all of it is."""
        return None if self.comparison is None or not self.comparison.is_dir() else self.comparison / FOLDER

    @property
    def transferred(self) -> Path | None:
        """Where perturbations are that meet all methods."""
        return None if self.folder is None else self.folder / TRANSFERRED

    @contextmanager
    def cell(self, row: ComparisonRow) -> Iterator[Path | None]:
        """Context: where a row keeps what it has done; None where nothing is, or another process is at it."""
        folder = self._of(row)
        with contextlib.ExitStack() as ending:
            if folder is not None:
                try:
                    ending.enter_context(trial_folder(folder))
                    ending.enter_context(locked_folder(folder))
                except OutputError as error:
                    logger.warning("%s, seed %d keeps nothing of what it does: %s", row.method, row.seed, error.problem)
                    folder = None
            yield folder

    def forget(self, row: ComparisonRow) -> None:
        """Remove what a row had done: it is there. What another process works with stays until that is done, too."""
        folder = self._of(row)
        if folder is not None and folder.is_dir():
            with contextlib.suppress(OutputError):
                with locked_folder(folder):
                    pass
                shutil.rmtree(folder, ignore_errors=True)

    def end(self) -> None:
        """Remove the rest, if no row needs it."""
        folder = self.folder
        if folder is not None and folder.is_dir() and all(each.name == TRANSFERRED for each in folder.iterdir()):
            shutil.rmtree(folder / TRANSFERRED, ignore_errors=True)
            with contextlib.suppress(OSError):  # a row that another process has begun meanwhile
                folder.rmdir()

    def _of(self, row: ComparisonRow) -> Path | None:
        return None if self.folder is None else self.folder / hashlib.sha256(row.identity.encode()).hexdigest()[:16]
