"""Files of the Hugging Face Hub, and ids that hold what rebuilds an architecture without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from genaf_sdk.errors import EncoderError


def fetch(repository: str, filename: str) -> Path:
    """Return a file of a Hub repository, ``ORG/NAME`` or ``ORG/NAME@REVISION``, from the cache or the network.

    Raises:
        EncoderError: It can be had from neither.
    """
    name, _, revision = repository.partition("@")
    try:
        return Path(hf_hub_download(name, filename, revision=revision or None))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise EncoderError(
            f"{filename} of {repository!r} cannot be had from the Hugging Face Hub: {str(error).splitlines()[0]}",
            expected="ORG/NAME of a repository that this machine can reach, or has in its cache",
            remedy=f"on a machine with network run `hf download {name} --local-dir FOLDER`, copy the folder here and "
            "pass its path as the encoder; for a private repository log in with `hf auth login`",
        ) from error


def described(place: str, description: dict[str, Any]) -> str:
    """Return the id that ``build`` rebuilds the architecture from."""
    return f"hf-hub:{place}:{json.dumps(description, separators=(',', ':'))}"
