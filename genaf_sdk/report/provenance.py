"""What a report's accuracies are of, each thing by its hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any

from genaf_sdk.report.reading import Pattern

Digest = Annotated[str, Pattern("[0-9a-f]{64}")]


@dataclass
class ProvenanceSection:
    """What the accuracies are of, each by its SHA-256, so that a signature over the report covers the whole claim.

    Args:
        encoder: Id of the published encoder, or the type of a module of the user's own.
        encoder_sha256: Of its weights before fine-tuning: names, shapes, types and values.
        data_sha256: Of labels and images; the data's fingerprint.
        settings_sha256: Of config as JSON with sorted names and no spaces.
    """

    encoder: str
    encoder_sha256: Digest
    data_sha256: Digest
    settings_sha256: Digest


def settings_digest(config: dict[str, Any]) -> str:
    """Return the SHA-256 of all settings of a run."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
