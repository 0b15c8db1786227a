"""The page itself, built with Gradio.

Uploaded files are never opened by Gradio: their bytes go to the decoder of the server, with its limits.
"""

from __future__ import annotations

import base64
import io
import json
import re
from typing import TYPE_CHECKING, Any

import gradio
import numpy as np
from PIL import Image

from ..classifier import OnnxClassifier, softmax
from ..errors import ServeError
from ..images import FORMATS, decode
from ..masking import UNDECIDED
from .certificate import REPORT_FILE, read_certificate
from .perturbations import Perturbation, read_perturbations

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

LARGEST_FILE = 10 * 2**20
"""Bytes of an uploaded file."""
SHOWN_CLASSES = 3
SHOWN_SIDE = 320
"""Pixels that the longer side of a picture is shown with, at least."""
BEFORE, AFTER = "The picture as it is", "The picture with the perturbation"
HOUR = 3600  # seconds, after which uploaded files are removed
MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-!|~$&])")


class Demonstration:
    """What the page does with a picture.

    Args:
        folder: Of the bundle.
        threads: Threads of one operator.

    Raises:
        ServeError: The bundle, a perturbation or the report cannot be used.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.certificate = read_certificate(folder)
        options: dict[str, Any] = {}
        if self.certificate is not None:
            proven = self.certificate
            options = {"certify": proven.area, "masks": proven.masks_per_axis, "fill": proven.fill}
        self.classifier = OnnxClassifier(folder, provider="cpu", threads=threads, **options)
        self.perturbations: dict[str, Perturbation] = {}
        for perturbation in read_perturbations(folder, self.classifier.image_shape):
            title, count = perturbation.title, 2
            while title in self.perturbations:
                title, count = f"{perturbation.title} ({count})", count + 1
            self.perturbations[title] = perturbation
        self.verdict = _verdict(folder)

    def pixels(self, data: bytes) -> Array:
        """Return a picture file as float32 (1, C, H, W) in [0, 1].

        Raises:
            ServeError: It is larger than the limits, or no such picture.
        """
        shape, interpolation = self.classifier.image_shape, self.classifier.bundle.interpolation
        decoded = decode(data, shape, interpolation=interpolation)
        return np.ascontiguousarray(decoded.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)

    def logits(self, pixels: Array) -> Array:
        """Return logits (N, K) of pixels float32 (N, C, H, W) in [0, 1]."""
        return self.classifier.predict(pixels.astype(np.float32)).logits

    def compare(self, data: bytes | None, title: str | None) -> tuple[Any, ...]:
        """Return what is shown for a picture and a perturbation: the sentence, both images, both lists of classes."""
        if not data:
            return ("Choose a picture.", None, None, None, None)
        try:
            clean = self.pixels(data)
            chosen = self.perturbations.get(title or "")
            both = clean if chosen is None else np.concatenate([clean, chosen.apply(clean)])
            logits = self.logits(both)
        except ServeError as error:
            return (str(error), None, None, None, None)
        before, after = (self.classifier.class_names[index] for index in logits.argmax(axis=1)[[0, -1]])
        if chosen is None:
            return (f"The answer is {before}.", _shown(clean[0], BEFORE), None, self._scores(logits[0]), None)
        said = f"The answer stays {before}." if before == after else f"The answer changes from {before} to {after}."
        scores = self._scores(logits[0]), self._scores(logits[1])
        return (said, _shown(both[0], BEFORE), _shown(both[1], AFTER), *scores)

    def certify(self, data: bytes | None) -> str:
        """Return in one sentence whether any patch can change the defended answer to a picture."""
        defense = self.classifier.defense
        if not data or defense is None:
            return "Choose a picture."
        try:
            (found, certified), *_ = defense(self.classifier.as_input(self.pixels(data)))
        except ServeError as error:
            return str(error)
        if found == UNDECIDED:
            return "Not certified: no class leads under the masks."
        said = f"the defended answer is {self.classifier.class_names[found]}"
        rows, columns = defense.masks.patch
        if not certified:
            return f"Not certified: {said}, and the model gives another class under some pair of masks."
        return f"Certified: {said}, and no patch of up to {rows} x {columns} pixels can change it."

    def _scores(self, logits: Array) -> dict[str, float]:
        scores = softmax(logits[None])[0]
        best = scores.argsort()[::-1][:SHOWN_CLASSES]
        return {self.classifier.class_names[index]: float(scores[index]) for index in best}


def build(folder: Path, threads: int | None = None) -> gradio.Blocks:
    """Return the page over a bundle, ready to be launched.

    Args:
        folder: Of the bundle.
        threads: Threads of one operator; None is one a core.

    Raises:
        ServeError: The bundle, a perturbation or the report cannot be used.
    """
    shown = Demonstration(folder, threads)
    _, height, width = shown.classifier.image_shape
    titles = list(shown.perturbations)
    private = {"api_visibility": "private", "show_progress": "minimal"}
    with gradio.Blocks(
        title="Before and after a perturbation", analytics_enabled=False, delete_cache=(HOUR, HOUR)
    ) as page:
        gradio.Markdown(
            "# Before and after a perturbation\n\n"
            "The same perturbation is put on every picture. It was crafted once, when the model was evaluated. "
            f"The model sees {width} x {height} pixels, as shown below.\n\n{_plain(shown.verdict)}"
        )
        picture = gradio.File(
            label=f"Picture ({', '.join(FORMATS)}, at most {LARGEST_FILE // 2**20} MiB)",
            file_types=[f".{kind.lower()}" for kind in (*FORMATS, "jpg")],
            type="binary",
            height=140,
            elem_id="picture",
        )
        choice = gradio.Dropdown(
            titles, value=titles[0] if titles else None, label="Perturbation", visible=bool(titles), elem_id="choice"
        )
        said = gradio.Textbox(label="Answer", value="Choose a picture.", interactive=False, elem_id="said")
        with gradio.Row():
            sides = [_side("before"), _side("after")]
        outputs = [said, *(image for image, _ in sides), *(label for _, label in sides)]
        changes = [picture.change, choice.change]
        gradio.on(changes, shown.compare, [picture, choice], outputs, trigger_mode="always_last", **private)
        if shown.certificate is not None:
            proof = shown.certificate
            rows, columns = proof.patch
            count = len(shown.classifier.defense.masks) if shown.classifier.defense else 0
            gradio.Markdown(
                "## Certificate\n\n"
                f"Proven by double masking: {proof.certified} of {proof.n} test images stay right under one patch of "
                f"at most {rows} x {columns} of {height} x {width} pixels, anywhere and of any content."
            )
            button = gradio.Button(
                f"Certify this picture (about {count * (count + 1) // 2} runs of the model)", elem_id="certify"
            )
            outcome = gradio.Textbox(label="Certificate of this picture", interactive=False, elem_id="certificate")
            button.click(shown.certify, [picture], [outcome], **private)
            # In the browser: in the queue it could come after the answer to a click, and wipe that out.
            picture.change(None, None, [outcome], js="() => ''", **private)
    page.queue(max_size=32, default_concurrency_limit=1)
    return page


def launch(folder: Path, **options: Any) -> None:
    """Build the page over a bundle and serve it until the process ends; options are those of ``Blocks.launch``."""
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    build(folder).launch(max_file_size=LARGEST_FILE, theme=theme, footer_links=[], **options)


def _side(name: str) -> tuple[gradio.HTML, gradio.Label]:
    with gradio.Column():
        image = gradio.HTML(elem_id=f"{name}-image")
        label = gradio.Label(label=f"Most likely classes {name}", elem_id=f"{name}-label")
    return image, label


def _shown(pixels: Array, title: str) -> str:
    """Return an image (C, H, W) in [0, 1] as HTML: enlarged without smoothing, without a fourth channel."""
    values = np.rint(pixels[:3] * 255).astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    scale = max(1, SHOWN_SIDE // max(image.size))
    file = io.BytesIO()
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f'<figure style="margin: 0"><figcaption>{title}</figcaption><img alt="{title}" src="{source}"></figure>'


def _verdict(folder: Path) -> str:
    """Return the first sentence of the bundle's report; empty without a report."""
    path = folder / REPORT_FILE
    return str(json.loads(path.read_text("utf-8")).get("verdict", "")) if path.is_file() else ""


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))
