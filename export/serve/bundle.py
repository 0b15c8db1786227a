"""The folder that is served: which file, which labels, and every check that comes before onnxruntime sees a byte."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError

from .errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 1
MODEL_FILE, LABELS_FILE, CONFIG_FILE, CHECKSUMS_FILE = "model.onnx", "labels.json", "config.json", "checksums.json"


@dataclass(frozen=True)
class Bundle:
    """What is known of a model before it is run.

    Args:
        path: The ONNX file.
        precision: ``fp32`` for ``model.onnx``, else the middle of the file's name: ``fp16`` for ``model.fp16.onnx``.
        class_names: K names in the order of the logits; empty where nothing says.
        image_size: (H, W) the model was made for; None where the graph alone decides.
        input_shape: Shape of one image in the graph's own layout; empty where the graph leaves a size open.
        sdk_version: Version of genaf-sdk that wrote it; empty where the file does not say.
        interpolation: How its training images were resized.
    """

    path: Path
    precision: str
    class_names: tuple[str, ...]
    image_size: tuple[int, int] | None
    input_shape: tuple[int, ...]
    sdk_version: str
    interpolation: str = "bilinear"


def open_bundle(source: str | Path, *, precision: str = "fp32") -> Bundle:
    """Check a bundle and say what is in it.

    Args:
        source: The bundle's folder, or one ONNX file (which has no checksums to be checked against).
        precision: Which of the folder's models.

    Raises:
        BundleError: Missing or damaged files, checksums that do not match, external data outside the folder or linked,
            labels that contradict one another, or a newer format.
    """
    source = Path(source)
    folder = source if source.is_dir() else source.parent
    path = _model_file(folder, precision) if source.is_dir() else source
    if not path.is_file():
        raise BundleError(
            f"There is no file {path}.", expected=f"a bundle (a folder with {MODEL_FILE}) or one .onnx file"
        )
    labels: Any = None
    if source.is_dir():
        _check_format(folder)
        verify_checksums(folder, {path.name, LABELS_FILE, CONFIG_FILE})
        labels = _read_json(folder / LABELS_FILE) if (folder / LABELS_FILE).exists() else None
    model = _parse(path)
    for name in sorted(set(_external_files(model))):
        _check_external(folder, name)
        if source.is_dir():
            verify_checksums(folder, {name})
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    stated = _metadata_list(path, metadata, "class_names", str)
    names = tuple(stated or labels or ())
    if labels is not None and (not isinstance(labels, list) or (stated and stated != labels)):
        raise BundleError(
            f"{folder / LABELS_FILE} and the class names inside {path.name} differ.", remedy="export the bundle again"
        )
    size = _metadata_list(path, metadata, "image_size", int)
    if size and (len(size) != 2 or min(size) < 1):
        raise BundleError(f"{path} states the image size {size}.", expected="[height, width]")
    stem = path.name.removesuffix(".onnx").partition(".")[2]
    return Bundle(
        path=path,
        precision=stem or "fp32",
        class_names=names,
        image_size=(size[0], size[1]) if size else None,
        input_shape=_input_shape(model),
        sdk_version=metadata.get("genaf_sdk", ""),
        interpolation=metadata.get("interpolation", "bilinear"),
    )


def precisions(folder: str | Path) -> tuple[str, ...]:
    """Return which precisions a bundle has a model file of, ``fp32`` first."""
    others = sorted(path.name.split(".")[1] for path in Path(folder).glob("model.*.onnx"))
    return (("fp32",) if (Path(folder) / MODEL_FILE).is_file() else ()) + tuple(others)


def verify_checksums(folder: Path, names: set[str]) -> None:
    """Compare those of ``names`` that exist with ``checksums.json``.

    Raises:
        BundleError: A file differs or is not listed, or there is no list.
    """
    listed = _read_json(folder / CHECKSUMS_FILE)
    sums = listed.get("sha256") if isinstance(listed, dict) else None
    if not isinstance(sums, dict):
        raise BundleError(f"{folder / CHECKSUMS_FILE} lists no checksums.", expected='{"sha256": {"model.onnx": ...}}')
    for name in sorted(names):
        path = folder / name
        if not path.is_file():
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if sums.get(name) != found:
            raise BundleError(
                f"The SHA-256 of {path} is {found}, {CHECKSUMS_FILE} says {sums.get(name, 'nothing of it')}.",
                expected="the file as it was exported",
                remedy="copy or download the bundle again; do not serve this one",
            )


def _model_file(folder: Path, precision: str) -> Path:
    name = MODEL_FILE if precision == "fp32" else f"model.{precision}.onnx"
    path = folder / name
    if not path.is_file() and precision != "fp32":
        raise BundleError(
            f"The bundle {folder} has no {name}.", expected=f"one of {', '.join(precisions(folder)) or 'none'}"
        )
    return path


def _check_format(folder: Path) -> None:
    if not (folder / CONFIG_FILE).exists():
        return
    config = _read_json(folder / CONFIG_FILE)
    found = config.get("format", FORMAT) if isinstance(config, dict) else None
    if not isinstance(found, int) or found > FORMAT:
        raise BundleError(
            f"The bundle {folder} has format {found!r}.",
            expected=f"format {FORMAT} or older",
            remedy="serve it with the serve/ folder inside that bundle, or update genaf-sdk",
        )


def _parse(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise BundleError(
            f"{path} is no ONNX file, or a damaged one: {error}.", remedy="copy or download the bundle again"
        ) from error
    if not model.graph.node:
        raise BundleError(f"{path} holds no graph.", remedy="copy or download the bundle again")
    return model


def _input_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    if not model.graph.input:
        return ()
    sizes = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    return sizes if all(sizes) else ()


def _external_files(message: Any) -> Iterator[str]:
    """Yield the location of every external tensor, wherever it hides: weights, attributes, subgraphs, functions."""
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            locations = [entry.value for entry in message.external_data if entry.key == "location"]
            yield from locations or [""]
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if isinstance(value, (list, tuple)) or hasattr(value, "__len__") else [value]:
                yield from _external_files(child)


def _check_external(folder: Path, name: str) -> None:
    parts = (PurePosixPath(name).parts, PureWindowsPath(name).parts)
    plain = name and all(len(part) == 1 for part in parts) and name not in (".", "..") and "\0" not in name
    if not plain:
        raise BundleError(f"The model keeps weights in {name!r}.", expected="a plain file name beside the model")
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise BundleError(
            f"The model's weights {path} are missing or a symbolic link.",
            expected="a regular file",
            remedy="download the bundle into a folder of its own (local_dir=...)",
        )
    if path.stat().st_nlink != 1:
        raise BundleError(
            f"The model's weights {path} are a hard link to a file elsewhere.",
            expected="a file of one name only",
            remedy="copy the bundle",
        )


def _metadata_list(path: Path, metadata: dict[str, str], key: str, kind: type) -> list[Any]:
    try:
        values = json.loads(metadata.get(key, "[]"))
    except ValueError as error:
        raise BundleError(f"The metadata {key!r} of {path} is no JSON: {error}.") from error
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise BundleError(f"The metadata {key!r} of {path} is {values!r}.", expected=f"a list of {kind.__name__}")
    return values


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path} cannot be read as JSON: {error}.", remedy="copy or download the whole bundle again"
        ) from error
