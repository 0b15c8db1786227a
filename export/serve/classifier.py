"""OnnxClassifier: images in, labels and scores out, with onnxruntime and numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .binding import Buffers
from .bundle import Bundle, open_bundle
from .errors import BundleError, InputError, ModelError, SettingsError
from .providers import open_session

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

TOLERANCE = 1e-6  # how far rounding may carry a pixel out of [0, 1]
ONE = int(np.float32(1).view(np.uint32))
"""The bits of 1.0. As whole numbers, those of larger floats, of negative ones and of NaN are all above it."""


@dataclass(frozen=True)
class Prediction:
    """What a model says about N images.

    Args:
        labels: Name of the most likely class of each image.
        scores: Its probability (softmax), float32 (N,).
        logits: Float32 (N, K).
    """

    labels: tuple[str, ...]
    scores: Array
    logits: Array


class OnnxClassifier:
    """A bundle's model, ready to classify.

    Args:
        source: A bundle's folder, or one ONNX file.
        precision: ``fp32``, or another that the bundle has a file of.
        provider: ``auto``, ``tensorrt``, ``cuda`` or ``cpu``. An explicit one that cannot be loaded is an error.
        threads: Threads of one operator on the CPU; None is one a core.
        spinning: Whether idle threads wait actively.
        max_batch: Most images that go through the graph at once; larger inputs are split.
        buckets: Batch sizes that smaller batches are padded to, so that a GPU sees few shapes; None is powers of two on
            a GPU and no padding on the CPU.
        binding: Whether input and output stay in buffers on the device (IO binding); None is only on a GPU.

    Attributes:
        class_names: K names, in the order of the logits.
        image_shape: (C, H, W).
        provider: What really runs the graph.
        takes_bytes: The graph's input is uint8 (N, H, W, C) rather than float32 (N, C, H, W).

    Raises:
        BundleError: The bundle is damaged, unsafe, of a newer format, or its graph is no such classifier.
        ProviderError: The provider cannot be loaded.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        precision: str = "fp32",
        provider: str = "auto",
        threads: int | None = None,
        spinning: bool = False,
        max_batch: int = 32,
        buckets: tuple[int, ...] | None = None,
        binding: bool | None = None,
    ) -> None:
        if max_batch < 1:
            raise SettingsError(f"max_batch is {max_batch}.", expected="at least 1")
        self.bundle, self.max_batch = open_bundle(source, precision=precision), max_batch
        self.session, self.provider = open_session(
            self.bundle.path,
            provider=provider,
            threads=threads,
            spinning=spinning,
            max_batch=max_batch,
            input_shape=self.bundle.input_shape,
        )
        self.input_name, self.output_name, self.takes_bytes, self.image_shape, classes = _signature(
            self.session, self.bundle
        )
        self.class_names = self.bundle.class_names or tuple(map(str, range(classes)))
        if len(self.class_names) != classes:
            raise BundleError(
                f"{self.bundle.path} gives {classes} logits, but {len(self.class_names)} classes are named."
            )
        if buckets is None:
            buckets = () if self.provider == "cpu" else tuple(2**power for power in range(max_batch.bit_length()))
        self.buckets = tuple(sorted({size for size in buckets if size < max_batch} | {max_batch})) if buckets else ()
        self.binding = self.provider != "cpu" if binding is None else binding
        self._buffers: dict[int, Buffers] = {}

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image as the graph takes it: (C, H, W) of floats, or (H, W, C) of bytes."""
        channels, height, width = self.image_shape
        return (height, width, channels) if self.takes_bytes else (channels, height, width)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the graph's input: uint8 or float32."""
        return np.dtype(np.uint8 if self.takes_bytes else np.float32)

    def predict(self, images: Array) -> Prediction:
        """Classify.

        Args:
            images: Float32 (N, C, H, W) in [0, 1], or uint8 (N, H, W, C).

        Raises:
            InputError: Another type, shape or size, or pixels that are NaN or outside [0, 1].
        """
        pixels = self.as_input(images)
        parts = [self.run(pixels[at : at + self.max_batch]) for at in range(0, len(pixels), self.max_batch)]
        logits = np.concatenate(parts)
        scores = softmax(logits)
        best = logits.argmax(axis=1)
        labels = tuple(self.class_names[index] for index in best)
        return Prediction(labels, scores[np.arange(len(best)), best], logits)

    def as_input(self, images: Array) -> Array:
        """Check images and bring them to the graph's own layout.

        Raises:
            InputError: As for ``predict``.
        """
        channels, height, width = self.image_shape
        layouts = {"float32": (channels, height, width), "uint8": (height, width, channels)}
        expected = f"float32 (N, {channels}, {height}, {width}) in [0, 1] or uint8 (N, {height}, {width}, {channels})"
        if not isinstance(images, np.ndarray) or str(images.dtype) not in layouts:
            given = f"an array of {images.dtype}" if isinstance(images, np.ndarray) else f"a {type(images).__name__}"
            raise InputError(f"The images are {given}.", expected=f"a numpy array, {expected}")
        if images.ndim != 4 or images.shape[1:] != layouts[str(images.dtype)] or len(images) == 0:
            raise InputError(f"The images are {images.dtype} of shape {images.shape}.", expected=expected)
        if images.dtype == self.dtype:
            self.check_range(images)
            return np.ascontiguousarray(images)
        if self.takes_bytes:
            self.check_range(images)
            return np.ascontiguousarray(np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1))
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)

    def check_range(self, pixels: Array) -> None:
        """Refuse floats that are NaN or outside [0, 1]; bytes are always in range.

        Raises:
            InputError: There are such pixels.
        """
        if pixels.dtype == np.uint8 or pixels.view(np.uint32).max() <= ONE:
            return
        low, high = float(pixels.min()), float(pixels.max())  # both are NaN where any pixel is
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise InputError(
                "The pixels hold NaN." if low != low else f"The pixels reach from {low:g} to {high:g}.",
                expected="pixels in [0, 1]; the normalisation is inside the model",
                remedy="divide bytes by 255, and subtract no mean" if high > 1 else "",
            )

    def run(self, pixels: Array) -> Array:
        """Return the logits (N, K) of pixels in the graph's own layout, N at most ``max_batch``, without checks.

        Raises:
            ModelError: onnxruntime failed.
        """
        count = len(pixels)
        padded = next((size for size in self.buckets if size >= count), count)
        if padded > count:
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], padded - count, axis=0)])
        try:
            logits: Array = self._forward(pixels)
        except Exception as error:  # onnxruntime's own classes share no public base
            raise ModelError(f"The model {self.bundle.path.name} failed on a batch of {count}: {error}") from error
        return logits[:count]

    def _forward(self, pixels: Array) -> Array:
        """Run the graph on a batch as large as it will be run."""
        if not self.binding:
            logits: Array = self.session.run([self.output_name], {self.input_name: pixels})[0]
            return logits
        count = len(pixels)
        if count not in self._buffers:
            device = "cpu" if self.provider == "cpu" else "cuda"
            made = Buffers(self.session, pixels.shape, self.dtype, len(self.class_names), device)
            self._buffers.setdefault(count, made)  # of two threads, the first
        return self._buffers[count].run(pixels)

    def warm_up(self) -> None:
        """Run every bucket once (or one image and the largest batch), so that the first user does not wait for it."""
        for size in self.buckets or sorted({1, self.max_batch}):
            self.run(np.zeros((size, *self.input_shape), self.dtype))


def load_bundle(source: str | Path, **options: Any) -> OnnxClassifier:
    """Open a bundle and warm it up; options as for ``OnnxClassifier``."""
    classifier = OnnxClassifier(source, **options)
    classifier.warm_up()
    return classifier


def softmax(logits: Array) -> Array:
    """Return probabilities (N, K) of logits (N, K)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _signature(session: Any, bundle: Bundle) -> tuple[str, str, bool, tuple[int, int, int], int]:
    """Read names, layout, image shape (C, H, W) and number of classes from the graph."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    described = ", ".join(f"{node.name} {node.type}{node.shape}" for node in (*inputs, *outputs))
    wrong = BundleError(
        f"{bundle.path} is no image classifier: {described}.",
        expected="one input, tensor(float) (batch, C, H, W) or tensor(uint8) (batch, H, W, C), of any batch size, and "
        "one output, tensor(float) (batch, K)",
        remedy="export the model again with genaf-sdk",
    )
    types = {"tensor(float)": False, "tensor(uint8)": True}
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type not in types or outputs[0].type != "tensor(float)":
        raise wrong
    shape, result = list(inputs[0].shape), list(outputs[0].shape)
    if len(shape) != 4 or len(result) != 2 or isinstance(shape[0], int) or not isinstance(result[1], int):
        raise wrong
    takes_bytes = types[inputs[0].type]
    height, width, channels = shape[1:] if takes_bytes else (*shape[2:], shape[1])
    if not all(isinstance(size, int) for size in (height, width)) and bundle.image_size is not None:
        height, width = bundle.image_size
    if not all(isinstance(size, int) for size in (channels, height, width)):
        raise wrong
    if bundle.image_size not in (None, (height, width)):
        raise BundleError(f"{bundle.path} is for {height} x {width} pixels, its metadata says {bundle.image_size}.")
    return inputs[0].name, outputs[0].name, takes_bytes, (channels, height, width), result[1]
