"""Where an encoder's files lie: a folder, or a repository of the Hugging Face Hub, used alike."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from genaf_sdk.errors import EncoderError, OutputError
from genaf_sdk.files import read_json, user_path
from genaf_sdk.models.storage import CONFIG_FILE, LARGEST_CONFIG, WEIGHTS_FILE, require_file

COMMIT = re.compile(r"[0-9a-f]{40}")
"""The folder of a snapshot in the Hub's cache is named by its commit."""


@dataclass(frozen=True)
class Repository:
    """A folder, or ``ORG/NAME`` or ``ORG/NAME@REVISION`` of the Hub, whose files are downloaded once.

    Args:
        name: Its path or its id.
    """

    name: str

    @property
    def folder(self) -> Path | None:
        """The folder, or None for a repository of the Hub."""
        path = user_path(self.name)
        return path if path.is_dir() else None

    def file(self, filename: str) -> Path:
        """Return where a file is, from the folder, the Hub's cache or the network.

        Raises:
            EncoderError: It can be had from none of them.
        """
        if self.folder is not None:
            return self.folder / filename
        name, _, revision = self.name.partition("@")
        try:
            return Path(hf_hub_download(name, filename, revision=revision or None))
        except (OSError, HfHubHTTPError, HFValidationError) as error:
            raise EncoderError(
                f"{filename} of {self.name!r} cannot be had from the Hugging Face Hub: {str(error).splitlines()[0]}",
                expected="ORG/NAME of a repository that this machine can reach, or has in its cache",
                remedy=f"on a machine with network run `hf download {name} --local-dir FOLDER`, copy the folder here "
                "and pass its path as the encoder; for a private repository log in with `hf auth login`",
            ) from error

    def pinned(self, filename: str) -> Repository:
        """Return the repository at the commit that ``filename`` was found at; a folder is as it is.

        What is read afterwards is of one commit, whatever is pushed meanwhile, and the commit is known.

        Raises:
            EncoderError: The file cannot be had.
        """
        commit = self.file(filename).parent.name
        if self.folder is not None or not COMMIT.fullmatch(commit):
            return self
        return Repository(f"{self.name.partition('@')[0]}@{commit}")

    def files(self, *filenames: str) -> Path:
        """Return the folder that holds all of these files, once they are there.

        Raises:
            EncoderError: One cannot be had.
        """
        return [self.file(filename).parent for filename in filenames][-1]

    def read(self, filename: str) -> dict[str, Any]:
        """Return the JSON object in a file.

        Raises:
            EncoderError: It cannot be had, or is no JSON object.
        """
        try:
            path = self.file(filename)
            require_file(path, LARGEST_CONFIG)
            content = read_json(path)
        except OutputError as error:
            raise EncoderError(
                f"{self.name!r} has no readable {filename}: {error}",
                expected=f"a folder of {CONFIG_FILE} and {WEIGHTS_FILE}, or the path of a checkpoint file",
            ) from error
        if not isinstance(content, dict):
            raise EncoderError(f"The {filename} of {self.name!r} is no JSON object.", expected="a JSON object")
        return content

    def read_if_there(self, filename: str) -> dict[str, Any]:
        """Return the JSON object in a file that not every repository has; empty where it is missing.

        Raises:
            EncoderError: It is there and cannot be had, or is no JSON object.
        """
        try:
            return self.read(filename) if self.folder is None or (self.folder / filename).is_file() else {}
        except EncoderError as error:
            if isinstance(error.__cause__, EntryNotFoundError):
                return {}
            raise

    def described(self, description: dict[str, Any]) -> str:
        """Return the id that ``hub.build`` rebuilds the architecture from, without the repository."""
        place = self.name if self.folder is None else "local"
        return f"hf-hub:{place}:{json.dumps(description, separators=(',', ':'))}"
