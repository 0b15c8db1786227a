"""``hf-hub:ORG/NAME``, ``ORG/NAME`` and folders: whatever a ``config.json`` describes.

Three kinds are told apart by their config: models that this package hardened, timm's, and those of transformers.
``hf-hub:ORG/NAME:DESCRIPTION``, as a hardened model stores it, holds what rebuilds the architecture offline.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, cast

from genaf_sdk.encoders import timm, transformers
from genaf_sdk.encoders.repository import Repository
from genaf_sdk.encoders.source import KnownEncoder
from genaf_sdk.errors import EncoderError
from genaf_sdk.files import user_path
from genaf_sdk.models.checksums import CHECKSUMS_FILE, check_listed, check_some
from genaf_sdk.models.classifier import Classifier
from genaf_sdk.models.storage import CONFIG_FILE, WEIGHTS_FILE, load_classifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from genaf_sdk.encoders.source import EncoderOptions
    from genaf_sdk.models.encoder import PixelEncoder

SHOWN = 200
"""How much of an id an error repeats."""


class Library(Protocol):
    """A library that writes repositories. A module with these functions is one."""

    def describes(self, config: dict[str, Any]) -> bool:
        """Whether a ``config.json`` is of this library."""

    def load_repository(self, repository: Repository, config: dict[str, Any], options: EncoderOptions) -> PixelEncoder:
        """Return the encoder in the repository."""

    def rebuild(self, description: dict[str, Any]) -> nn.Module:
        """Return the architecture that ``load_repository`` described in the encoder's id."""


LIBRARIES: dict[str, Library] = {"timm": cast("Library", timm), "transformers": cast("Library", transformers)}


def known() -> list[KnownEncoder]:
    """Return the spellings."""
    return [
        KnownEncoder("hf-hub:ORG/NAME", "hub", weights=False),
        KnownEncoder(f"FOLDER of {CONFIG_FILE} and {WEIGHTS_FILE}", "hub", weights=False),
    ]


def build(name: str) -> nn.Module:
    """Return the architecture that the description after the name holds, without asking the network.

    Raises:
        EncoderError: There is no description.
    """
    _, _, text = name.partition(":")
    try:
        description: Any = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise EncoderError(
            f"The id 'hf-hub:{name[:SHOWN]}' is damaged: {error}.", expected="a JSON object after the name"
        ) from error
    library = LIBRARIES.get(str(description.get("library"))) if isinstance(description, dict) else None
    if library is None:
        raise EncoderError(
            f"The id 'hf-hub:{name[:SHOWN]}' does not describe an architecture.",
            expected="an id that a hardened model stored, with a description after the name",
            remedy="pass from_pretrained(..., backbone=load_encoder(id).backbone)",
        )
    return library.rebuild(description)


def load(name: str, options: EncoderOptions, *, build: Callable[[str], nn.Module]) -> PixelEncoder:
    """Return the encoder of a Hub repository (downloaded once) or of a folder that holds its files.

    ``build`` makes an architecture of its id, for models that this package hardened.

    Raises:
        EncoderError: It cannot be downloaded, or its config.json is of none of the three kinds.
        ExportError: It is a bundle with a file that is missing, altered or not listed.
    """
    repository = Repository(name if user_path(name).is_dir() else name.partition(":")[0]).pinned(CONFIG_FILE)
    config = repository.read(CONFIG_FILE)
    if "genaf_sdk" in config:
        return _hardened(repository, options, build)
    for library in LIBRARIES.values():
        if library.describes(config):
            return library.load_repository(repository, config, options)
    raise EncoderError(
        f"The {CONFIG_FILE} of {repository.name!r} describes no encoder; its keys are {', '.join(list(config)[:6])}.",
        expected="a model of timm ('architecture'), of transformers ('model_type'), or hardened by genaf-sdk",
        remedy="pass the module itself",
    )


def _hardened(repository: Repository, options: EncoderOptions, build: Callable[[str], nn.Module]) -> PixelEncoder:
    """Return the encoder of a hardened model, whose bundle has to be whole, as for ``HardenedModel.from_pretrained``.

    Of the Hub the list, settings and weights are downloaded, and no other file.

    Raises:
        EncoderError: The caller asked for another normalization.
        ExportError: A file of the bundle is missing or was altered, or one is not listed.
    """
    if options.mean is not None:
        raise EncoderError(
            f"mean is {options.mean}, and {repository.name!r} is a hardened model, which states its own.",
            expected="a hardened model by itself",
            remedy="pass what is inside: load_encoder(HardenedModel.from_pretrained(...).encoder.backbone, mean=...)",
        )
    folder = repository.files(WEIGHTS_FILE, CONFIG_FILE)
    if repository.folder is not None:
        check_listed(folder)
    else:
        repository.read_if_there(CHECKSUMS_FILE)
        check_some(folder, WEIGHTS_FILE, CONFIG_FILE)
    encoder = load_classifier(folder, Classifier, build).encoder
    if options.image_size is not None:
        encoder.image_size = options.image_size
    return encoder
