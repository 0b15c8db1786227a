"""A classifier as transformers writes one, so that its `pipeline("image-classification")` runs it without our code.

That library has, for each encoder, one class with a linear layer on top. So it takes models of the head `linear` on an
encoder of its own, in whose class the same features reach that layer. Whether they do is measured, not assumed: what is
written is loaded by the library, and its logits are compared with ours.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from genaf_sdk.data.decoding import INTERPOLATIONS
from genaf_sdk.encoders.processor import PROCESSOR, RESAMPLING
from genaf_sdk.encoders.transformers import TransformersEncoder
from genaf_sdk.errors import ExportError, OutputError
from genaf_sdk.export.parity import TOLERANCE
from genaf_sdk.files import output_errors, write_json
from genaf_sdk.models.heads import LinearHead
from genaf_sdk.models.modes import inference_mode_of

if TYPE_CHECKING:
    from genaf_sdk.models.classifier import Classifier

IMAGES = 5
INSTEAD = "serve model.onnx, or load the bundle by genaf_sdk.HardenedModel"


def write_transformers(model: Classifier, folder: Path) -> float:
    """Write ``config.json``, ``model.safetensors`` and ``preprocessor_config.json`` for transformers, or nothing.

    The processor resizes pictures to the model's size and normalizes them; the rest is the library's own class. Of a
    picture with transparency that library drops the alpha channel, where training and our server show white.

    Args:
        model: The classifier.
        folder: A new folder, or an empty one.

    Returns:
        Largest difference of the logits, relative to their largest absolute value (at least 1), on five random images.

    Raises:
        ExportError: The encoder is none of transformers, the head is not `linear`, the library has no classifier on the
            encoder, or one that computes something else.
        OutputError: ``folder`` is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not empty.", expected="an empty folder, or a new one")
    theirs = _classifier(model)
    with output_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial") as partial:
            inside = Path(partial) / folder.name
            theirs.save_pretrained(inside)
            write_json(inside / PROCESSOR, _processor(model))
            difference = _difference(model, inside)
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"The logits of {type(theirs).__name__} differ from ours by {difference:.1e}.",
                    expected=f"at most {TOLERANCE:.0e}: the class pools the encoder's features in another way",
                    remedy=INSTEAD,
                )
            if folder.exists():
                folder.rmdir()
            inside.rename(folder)
    return difference


def _classifier(model: Classifier) -> Any:
    """Return the library's classifier on the encoder, with our weights.

    Raises:
        ExportError: There is none, or it has other weights.
    """
    backbone, head = model.encoder.backbone, model.head
    if not isinstance(backbone, TransformersEncoder):
        raise ExportError(
            f"The encoder {model.encoder.source or type(backbone).__name__!r:.100} is none of transformers.",
            expected="a model on an encoder of that library, such as hf-hub:facebook/dinov2-small",
            remedy=INSTEAD,
        )
    if not isinstance(head, LinearHead):
        raise ExportError(
            f"The head is a {type(head).__name__}.",
            expected='the head "linear": no class of transformers has another',
            remedy=f"train with --head linear, or {INSTEAD}",
        )
    library = importlib.import_module("transformers")
    inner: Any = backbone.model
    kind = library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(inner.config), None)
    if kind is None:
        raise ExportError(
            f"transformers has no image classifier on a {type(inner).__name__}.",
            expected="an encoder with a class ...ForImageClassification",
            remedy=INSTEAD,
        )
    names = dict(enumerate(model.class_names))
    config = type(inner.config)(
        **inner.config.to_dict()
        | {"id2label": names, "label2id": {name: index for index, name in names.items()}}
        | {"problem_type": "single_label_classification"}
    )
    theirs = kind(config).eval()
    own = inner.state_dict()
    base = getattr(theirs, theirs.base_model_prefix)
    lacking = base.load_state_dict(own, strict=False).missing_keys
    layer = [part for part in theirs.modules() if isinstance(part, nn.Linear) and part.out_features == len(names)][-1:]
    if lacking or not layer or layer[0].in_features < head.in_features:
        raise ExportError(
            f"The weights do not fit {kind.__name__}: {', '.join(lacking[:1]) or 'its last layer is another one'}.",
            expected="a class that has the encoder's layers and one linear layer",
            remedy=INSTEAD,
        )
    with torch.no_grad():  # further features, as DINOv2's mean of patches, are taken with weight 0
        layer[0].weight.zero_()[:, : head.in_features] = head.weight.cpu()
        layer[0].bias.copy_(head.bias.cpu())
    return theirs


def _processor(model: Classifier) -> dict[str, Any]:
    """Return the library's description of resizing and normalization; a filter is named by Pillow's number."""
    height, width = model.image_size
    mean, std = (
        [round(float(value), 9) for value in values.flatten().expand(model.encoder.channels)]
        for values in (model.encoder.mean, model.encoder.std)
    )
    mode = INTERPOLATIONS[model.encoder.interpolation].removesuffix("-exact")  # what ours are resized with
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": next(number for number, name in RESAMPLING.items() if name == mode),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }


def _difference(model: Classifier, folder: Path) -> float:
    """Return how far the logits of what was written lie from ours, pictures of the model's own size through both."""
    library = importlib.import_module("transformers")
    shape = (IMAGES, *model.image_size, model.encoder.channels)
    images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    processor = library.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    theirs = library.AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()
    prepared = processor(
        images=[image.numpy() for image in images], return_tensors="pt", input_data_format="channels_last"
    )
    with torch.no_grad(), inference_mode_of(model):
        device = next(model.parameters()).device
        ours = model((images.permute(0, 3, 1, 2).float() / 255).to(device)).cpu()
        found = theirs(**prepared).logits
    return float((found - ours).abs().max() / ours.abs().max().clamp(min=1))
