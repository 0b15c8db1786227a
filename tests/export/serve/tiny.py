"""Bundles of a model so small that numpy can check it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

SIZE, CLASSES = 32, 4
NAMES = ["cat", "dog", "<b>bird</b>", "Fisch ü"]
AREA, COUNT, FILL = 0.03, 3, (0.2, 0.4, 0.6)
"""What the certifying server certifies: the patch's share of the image, masks an axis, color under the masks."""
WEIGHT = np.random.default_rng(0).standard_normal((3, CLASSES)).astype(np.float32)
BIAS = np.array([0.5, -0.5, 0.25, 0.0], np.float32)


def reference(pixels: np.ndarray) -> np.ndarray:
    """What the tiny model computes, in numpy: the mean of each channel, then one linear layer."""
    logits: np.ndarray = pixels.astype(np.float32).mean((2, 3)) @ WEIGHT + BIAS
    return logits


def tiny_graph(*, size: int = SIZE, uint8_input: bool = False, batch: str | int = "batch") -> onnx.ModelProto:
    """A classifier as ONNX; with ``uint8_input`` its input is uint8 (N, H, W, C)."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["scaled"], ["maps"]),
        helper.make_node("Flatten", ["maps"], ["features"]),
        helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"]),
    ]
    weights = [numpy_helper.from_array(WEIGHT, "weight"), numpy_helper.from_array(BIAS, "bias")]
    shape, kind = [batch, 3, size, size], TensorProto.FLOAT
    if uint8_input:
        shape, kind = [batch, size, size, 3], TensorProto.UINT8
        weights.append(numpy_helper.from_array(np.float32(255), "scale"))
        nodes = [
            helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Div", ["planes", "scale"], ["scaled"]),
            *nodes,
        ]
    else:
        nodes.insert(0, helper.make_node("Identity", ["pixels"], ["scaled"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", kind, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    metadata = {
        "class_names": json.dumps(NAMES),
        "image_size": json.dumps([size, size]),
        "channels": "3",
        "genaf_sdk": "0",
    }
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


def seal(folder: Path) -> None:
    """Write the checksums of what is in a bundle."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "checksums.json"]
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "checksums.json").write_text(json.dumps({"sha256": sums}))


def make_bundle(folder: Path, **options: Any) -> Path:
    """Write a bundle of the tiny model."""
    folder.mkdir(parents=True)
    onnx.save(tiny_graph(**options), folder / "model.onnx")
    (folder / "labels.json").write_text(json.dumps(NAMES))
    (folder / "config.json").write_text(json.dumps({"format": 1}))
    seal(folder)
    return folder


def images(count: int, *, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Float32 (N, 3, H, W) in [0, 1]."""
    return np.random.default_rng(seed).random((count, 3, size, size), np.float32)


def blots(count: int, seed: int = 2) -> np.ndarray:
    """Images (N, 3, H, W) of one color with a square of another, whose two likeliest classes are nearly a tie."""
    generator, found = np.random.default_rng(seed), []
    while len(found) < count:
        image = np.empty((3, SIZE, SIZE), np.float32)
        image[:] = generator.integers(0, 9, (3, 1, 1)) / 8
        (top, left), side = generator.integers(0, SIZE - 14, 2), generator.integers(6, 14)
        image[:, top : top + side, left : left + side] = generator.integers(0, 9, (3, 1, 1)) / 8
        second, best = np.sort(reference(image[None])[0])[-2:]
        if best - second < 0.15:
            found.append(image)
    return np.stack(found)
