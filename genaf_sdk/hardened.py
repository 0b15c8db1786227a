"""The hardened classifier: a ``Classifier`` that is loaded from folders and the Hub, and published there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genaf_sdk.encoders import build_backbone
from genaf_sdk.export.bundle import write_bundle
from genaf_sdk.export.hub import download, push_bundle
from genaf_sdk.export.layout import CHECKSUMS_FILE
from genaf_sdk.models.checksums import check_listed, check_some, require_outside
from genaf_sdk.models.classifier import Classifier
from genaf_sdk.models.storage import CONFIG_FILE, WEIGHTS_FILE, load_classifier, save_classifier

if TYPE_CHECKING:
    from torch import nn


class HardenedModel(Classifier):
    """A hardened classifier on pixels: encoder, then head.

    Args:
        encoder: Pixels (N, C, H, W) to features (N, D).
        head: Features (N, D) to logits (N, K).
        class_names: K names, in the order of the logits.
        image_size: (H, W) of the images it was fine-tuned on.
    """

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write settings and weights into ``folder`` for ``from_pretrained`` and return the folder.

        ``HardenResult.save`` writes the whole bundle: the ONNX file and the report with them.

        Raises:
            OutputError: The folder cannot be written, or holds a whole bundle, which would no longer be one.
        """
        save_classifier(self, require_outside(Path(folder)))
        return Path(folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish model, ONNX file and card on the Hugging Face Hub in one commit and return its URL.

        ``HardenResult.push_to_hub`` publishes the report and the perturbations with them.

        Args:
            repo_id: ``ORG/NAME``; made if it does not exist.
            **options: ``private``, ``revision``, ``create_pr``, ``token`` and the others of
                ``genaf_sdk.export.hub.push_bundle``.

        Raises:
            HubError: The Hub refuses; the error says why.
        """
        with tempfile.TemporaryDirectory() as folder:
            return push_bundle(write_bundle(self, Path(folder)), repo_id, **options)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        backbone: nn.Module | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        check_files: bool = True,
    ) -> HardenedModel:
        """Load what ``save_pretrained`` or ``push_to_hub`` wrote. Nothing in the folder is executed.

        A bundle has to be whole: each file as ``checksums.json`` lists it, and no other. Of the Hub only three files
        are downloaded: that list, settings and weights.

        Args:
            pretrained_model_name_or_path: A folder, or ORG/NAME on the Hub, with or without ``hf-hub:``.
            backbone: The encoder's architecture, with any weights; needed only where the hardened encoder was a module
                of your own rather than an id. It is copied, and left as it is.
            revision: Branch, tag or commit on the Hub.
            token: Hub token, for private repositories.
            cache_dir: Where the Hub's files are kept.
            local_files_only: Do not ask the network.
            check_files: Whether a bundle has to be whole. Without it, settings and weights are loaded whatever became
                of them, and whatever lies beside them.

        Raises:
            HubError: There is no such folder or repository, or the Hub refuses.
            ExportError: A file of the bundle is missing or was altered, or one is not listed.
            OutputError: The folder does not hold a hardened model, or its files do not fit together.
            EncoderError: The architecture cannot be rebuilt without ``backbone``.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            if check_files:
                check_listed(folder)
        else:
            folder = download(
                str(pretrained_model_name_or_path),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, CHECKSUMS_FILE],
            )
            if check_files:
                check_some(folder, CONFIG_FILE, WEIGHTS_FILE)
        return load_classifier(folder, cls, build_backbone, backbone=backbone)
