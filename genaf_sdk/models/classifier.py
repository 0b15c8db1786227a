"""Encoder, head and the hardened classifier: pixels in, logits out, normalisation inside."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genaf_sdk._version import __version__
from genaf_sdk.errors import EncoderError, OutputError
from genaf_sdk.files import read_json, replacing, write_json
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import Head
from genaf_sdk.models.modes import inference_mode_of

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 1


class HardenedModel(nn.Module, ModelHubMixin, library_name="genaf-sdk", pipeline_tag="image-classification"):
    """A classifier on pixels: encoder, then head.

    Args:
        encoder: Pixels (N, C, H, W) to features (N, D).
        head: Features (N, D) to logits (N, K).
        class_names: K names, in the order of the logits.
        image_size: (H, W) of the images it was fine-tuned on.
    """

    def __init__(
        self, encoder: PixelEncoder, head: nn.Module, *, class_names: Sequence[str], image_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.class_names, self.image_size = tuple(class_names), (int(image_size[0]), int(image_size[1]))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, C, H, W) in [0, 1] to logits (N, K)."""
        logits: Tensor = self.head(self.encoder(pixels))
        return logits

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
        from genaf_sdk.export.bundle import write_bundle
        from genaf_sdk.export.hub import push_bundle

        with tempfile.TemporaryDirectory() as folder:
            return push_bundle(write_bundle(self, Path(folder)), repo_id, **options)

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> list[str]:
        """Return the name of the most likely class of each image; pixels (N, C, H, W) in [0, 1]."""
        device = next(self.parameters()).device
        with inference_mode_of(self):
            return [self.class_names[index] for index in self(pixels.to(device)).argmax(dim=1).tolist()]

    def _save_pretrained(self, save_directory: Path) -> None:
        config = {
            "format": FORMAT,
            "genaf_sdk": __version__,
            "encoder": self.encoder.source,
            "channels": self.encoder.channels,
            "mean": self.encoder.mean.flatten().tolist(),
            "std": self.encoder.std.flatten().tolist(),
            "encoder_image_size": self.encoder.image_size,
            "interpolation": self.encoder.interpolation,
            "image_size": self.image_size,
            "class_names": self.class_names,
        }
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        with replacing(save_directory / WEIGHTS_FILE) as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})
        write_json(save_directory / CONFIG_FILE, config)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the Hub mixin's signature, narrowed to what is used
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        backbone: nn.Module | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> HardenedModel:
        """Load what ``save_pretrained`` or ``push_to_hub`` wrote. Nothing in the folder is executed.

        Args:
            pretrained_model_name_or_path: A folder, or ORG/NAME on the Hub, with or without ``hf-hub:``.
            backbone: The encoder's architecture, with any weights; needed only where the hardened encoder was a module
                of your own rather than an id.
            revision: Branch, tag or commit on the Hub.
            token: Hub token, for private repositories.
            cache_dir: Where the Hub's files are kept.
            local_files_only: Do not ask the network.

        Raises:
            HubError: There is no such folder or repository, or the Hub refuses.
            OutputError: The folder does not hold a hardened model, or its files do not fit together.
            EncoderError: The architecture cannot be rebuilt without ``backbone``.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            from genaf_sdk.export.hub import download

            folder = download(
                str(pretrained_model_name_or_path),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=[CONFIG_FILE, WEIGHTS_FILE],
            )
        return _assemble(folder, backbone)


def _assemble(folder: Path, backbone: nn.Module | None) -> HardenedModel:
    from genaf_sdk.encoders import build_backbone

    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise OutputError(
            f"{folder / CONFIG_FILE} has format {config.get('format') if isinstance(config, dict) else None!r}.",
            expected=f"format {FORMAT}",
            remedy="update genaf-sdk if the model was made by a newer version",
        )
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{folder / WEIGHTS_FILE} cannot be read: {error}.") from error
    if backbone is None:
        if not config.get("encoder"):
            raise EncoderError(
                f"{folder} holds a hardened module of your own, whose architecture no id describes.",
                remedy="pass from_pretrained(..., backbone=the_module)",
            )
        backbone = build_backbone(str(config["encoder"]))
    try:
        return _build(config, weights, backbone)
    except (RuntimeError, KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise OutputError(
            f"The files in {folder} do not fit together, or not the encoder {config.get('encoder')!r}: {error}"
        ) from error


def _build(config: dict[str, Any], weights: dict[str, Tensor], backbone: nn.Module) -> HardenedModel:
    if not config["class_names"]:
        raise ValueError("there are no class names")
    size = config["encoder_image_size"]
    encoder = PixelEncoder(
        backbone,
        source=config["encoder"],
        mean=config["mean"],
        std=config["std"],
        image_size=tuple(size) if size else None,
        interpolation=config.get("interpolation", "bilinear"),
        channels=config["channels"],
    )
    head = Head(weights["head.0.weight"].shape[1], len(config["class_names"]))
    model = HardenedModel(encoder, head, class_names=config["class_names"], image_size=tuple(config["image_size"]))
    model.load_state_dict(weights)
    return model.eval()


def architecture_of(model: HardenedModel) -> dict[str, Any]:
    """Return what the report says of a model: encoder id, sizes, classes and number of parameters."""
    return {
        "encoder": model.encoder.source or type(model.encoder.backbone).__name__,
        "image_size": model.image_size,
        "channels": model.encoder.channels,
        "classes": len(model.class_names),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
