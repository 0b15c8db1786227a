"""The models of one server: found by name and version, each behind its own batcher."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from . import images
from .batching import Batcher
from .classifier import OnnxClassifier, softmax
from .errors import SettingsError, UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .metrics import Metrics
    from .settings import Settings

VERSION = "1"


class ServedModel:
    """One classifier, its batcher, and what the protocol says of it."""

    def __init__(self, name: str, classifier: OnnxClassifier, settings: Settings, metrics: Metrics) -> None:
        self.name, self.classifier = name, classifier
        self.datatype = "UINT8" if classifier.takes_bytes else "FP32"
        self._max_pixels = settings.max_pixels
        self._decoders = asyncio.Semaphore(4)  # decoded images are large: few at a time
        self._batcher = Batcher(
            classifier.run,
            classifier.check_range,
            max_batch=settings.max_batch,
            max_delay=settings.max_delay,
            max_queue=settings.max_queue,
            observe=metrics.of_model(name, lambda: self._batcher.waiting),
        )
        self.infer = self._batcher.submit
        self.close = self._batcher.close

    @property
    def metadata(self) -> dict[str, Any]:
        """The model metadata response of the Open Inference Protocol, with the class names added."""
        classes = len(self.classifier.class_names)
        inputs = {
            "name": self.classifier.input_name,
            "datatype": self.datatype,
            "shape": [-1, *self.classifier.input_shape],
        }
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "onnxruntime_onnx",
            "inputs": [inputs],
            "outputs": [{"name": self.classifier.output_name, "datatype": "FP32", "shape": [-1, classes]}],
            "parameters": {"precision": self.classifier.bundle.precision, "provider": self.classifier.provider},
        }

    async def classify(self, data: bytes, top: int, deadline: float) -> dict[str, Any]:
        """Return label, score and the ``top`` best classes of one image file.

        Raises:
            ServeError: The image cannot be decoded, or as for ``infer``.
        """
        async with self._decoders:
            pixels = await asyncio.to_thread(self._pixels, data)
        scores = softmax(await self.infer(pixels, deadline))[0]
        best = scores.argsort()[::-1][:top]
        ranking = [{"label": self.classifier.class_names[index], "score": float(scores[index])} for index in best]
        return {"model": self.name, **ranking[0], "top": ranking}

    def _pixels(self, data: bytes) -> NDArray[Any]:
        decoded = images.decode(data, self.classifier.image_shape, max_pixels=self._max_pixels)
        return self.classifier.as_input(decoded)


class Models:
    """All models of a server by name; the first one is the default of the image endpoint."""

    def __init__(self, classifiers: Mapping[str, OnnxClassifier], settings: Settings, metrics: Metrics) -> None:
        if not classifiers:
            raise SettingsError("There is no model to serve.", expected="at least one bundle")
        self._models = {name: ServedModel(name, each, settings, metrics) for name, each in classifiers.items()}

    def get(self, name: str, version: str = "") -> ServedModel:
        """Return a model.

        Raises:
            UnknownModelError: There is none of that name or version.
        """
        model = self._models.get(name)
        if model is None:
            raise UnknownModelError(f"There is no model {name[:80]!r}.", expected=f"one of {', '.join(self._models)}")
        if version not in ("", VERSION):
            raise UnknownModelError(f"The model {name!r} has no version {version[:80]!r}.", expected=VERSION)
        return model

    @property
    def default(self) -> ServedModel:
        """The first model."""
        return next(iter(self._models.values()))

    @property
    def names(self) -> list[str]:
        """Names of all models."""
        return list(self._models)

    def close(self) -> None:
        """Answer what waits and stop."""
        for model in self._models.values():
            model.close()
