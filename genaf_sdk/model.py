"""Encoder, head and the hardened classifier: pixels in, logits out, normalisation inside."""

from __future__ import annotations

import contextlib
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

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 1


class PixelEncoder(nn.Module):
    """An encoder together with its own normalisation: the only place that knows mean and standard deviation.

    Args:
        backbone: Maps normalised images (N, C, H, W) to features (N, D), or to maps (N, D, h, w), which are averaged.
        source: The id that ``load_encoder`` builds the same architecture from; empty for a module of the user's own.
        mean: Per-channel mean of the normalisation, in pixel units. Empty: the backbone takes pixels as they are.
        std: Per-channel standard deviation, likewise.
        image_size: (H, W) the encoder was made for, or None where it takes any.
        interpolation: How its training images were resized: bilinear, bicubic and so on.
        channels: How many channels an image has.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        source: str = "",
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        image_size: tuple[int, int] | None = None,
        interpolation: str = "bilinear",
        channels: int = 3,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or len(mean) not in (0, 1, channels):
            raise EncoderError(
                f"The normalisation has {len(mean)} means and {len(std)} standard deviations.",
                expected=f"none, one, or {channels} of each, one a channel",
            )
        if any(value <= 0 for value in std):
            raise EncoderError(f"A standard deviation is not positive: {tuple(std)}.", expected="positive numbers")
        self.backbone = backbone
        self.source, self.image_size, self.channels = source, image_size, channels
        self.interpolation = interpolation
        self.register_buffer("mean", torch.tensor(tuple(mean) or (0.0,)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std) or (1.0,)).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, C, H, W) in [0, 1] to features (N, D)."""
        return pooled(self.backbone((pixels - self.mean) / self.std))

    @torch.no_grad()
    def measure(self, image_size: tuple[int, int]) -> int:
        """Return the number of features D, found by a dry run on two grey images of (H, W) pixels.

        Raises:
            EncoderError: The encoder refuses such images, gives no (N, D) features or has NaN in its weights.
        """
        for name, parameter in self.named_parameters():
            if not torch.isfinite(parameter).all():
                raise EncoderError(
                    f"The weight {name!r} of the encoder holds NaN or infinity.", expected="finite weights"
                )
        shape = (2, self.channels, *image_size)
        with inference_mode_of(self):
            try:
                features = self(torch.full(shape, 0.5, device=self.mean.device))
            except EncoderError:
                raise
            except (RuntimeError, ValueError, TypeError, AssertionError) as error:
                raise EncoderError(
                    f"The encoder refuses images of shape {shape[1:]}: {error}.",
                    expected="a module that maps (N, C, H, W) to (N, D)",
                    remedy="resize the data to the encoder's image size, or pass image_size",
                ) from error
        if not torch.isfinite(features).all():
            raise EncoderError("The encoder gives NaN or infinity for a grey image.", expected="finite features")
        return int(features.shape[1])


def pooled(output: object) -> Tensor:
    """Reduce what an encoder returns to features (N, D).

    Understood: (N, D); maps (N, D, h, w), averaged; output objects with ``pooler_output`` or ``image_embeds``; a tuple,
    list or dict of exactly one of these.

    Raises:
        EncoderError: Anything else, named with its type and shape.
    """
    for attribute in ("image_embeds", "pooler_output"):
        value = getattr(output, attribute, None)
        if isinstance(value, Tensor):
            output = value
            break
    if isinstance(output, dict) and len(output) == 1:
        output = next(iter(output.values()))
    if isinstance(output, (tuple, list)) and len(output) == 1:
        output = output[0]
    if isinstance(output, Tensor) and output.ndim == 4:
        return output.mean(dim=(2, 3))
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    given = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise EncoderError(
        f"The encoder's output is {given}.",
        expected="features (N, D) or maps (N, D, h, w)",
        remedy="wrap the encoder in a module that returns one such tensor",
    )


class Head(nn.Sequential):
    """The paper's classifier on top of the encoder: D -> D -> D -> K with ReLU, dropout after the first layer."""

    def __init__(self, feature_dim: int, classes: int, dropout: float = 0.2) -> None:
        super().__init__(
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(),
            nn.Linear(feature_dim, classes),
        )


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


@contextlib.contextmanager
def inference_mode_of(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in eval mode for the block, then every submodule back in the mode it was in."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training


def architecture_of(model: HardenedModel) -> dict[str, Any]:
    """Return what the report says of a model: encoder id, sizes, classes and number of parameters."""
    return {
        "encoder": model.encoder.source or type(model.encoder.backbone).__name__,
        "image_size": model.image_size,
        "channels": model.encoder.channels,
        "classes": len(model.class_names),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
