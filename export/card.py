"""The model card: what the model is, what was measured, what it does not withstand, how to run and to verify it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from PIL import Image

from genaf_sdk._version import __version__
from genaf_sdk.export.serve.images import FILTERS, MODES
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.markdown import escaped, markdown_summary
from genaf_sdk.report.verdict import budget_text

if TYPE_CHECKING:
    from genaf_sdk.models.classifier import Classifier
    from genaf_sdk.report.robustness import RobustnessReport
    from genaf_sdk.report.scores import Score

SHOWN_CLASSES = 50


@dataclass(frozen=True)
class ModelFacts:
    """What the card says of a model.

    Args:
        encoder: Id of the encoder, or the type of a module of the user's own.
        channels: Of an image.
        image_size: (H, W).
        class_names: In the order of the logits.
        interpolation: How images are resized.
        version: Of genaf-sdk, which made it.
    """

    encoder: str
    channels: int
    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    interpolation: str
    version: str

    @classmethod
    def of(cls, model: Classifier) -> ModelFacts:
        """Return the facts of a model that this version makes."""
        encoder = model.encoder
        source = encoder.source or type(encoder.backbone).__name__
        return cls(
            source, encoder.channels, model.image_size, tuple(model.class_names), encoder.interpolation, __version__
        )


def model_card(model: ModelFacts, report: RobustnessReport | None, *, license_id: str = "") -> str:
    """Return the card as Markdown with YAML metadata. Every inserted string is escaped; no template is executed.

    Args:
        model: The classifier.
        report: What was measured, or None.
        license_id: The Hub's identifier of the model's license; empty states none.
    """
    dataset, method = _hub_id(report.data.name) if report is not None else None, _method(report)
    metadata = ModelCardData(
        library_name="genaf-sdk",
        pipeline_tag="image-classification",
        tags=["adversarial-robustness", "onnx", *([OURS] if method == OURS else []), "image-classification"],
        base_model=_hub_id(model.encoder),
        datasets=None if dataset is None else [dataset],
        license=license_id or None,
        model_name="Hardened image classifier" if report is not None else None,
        eval_results=_model_index(report) if report is not None else None,
    )
    sections = [_what(model, method), _figures(report), _use(model), _intended_use(), _verify(report)]
    return f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def eval_results(report: RobustnessReport) -> str | None:
    """Return the same accuracies in the Hub's newer form, the YAML of ``.eval_results/robustness.yaml``.

    That form knows data sets of the Hub alone: for other data there is none.
    """
    import yaml

    dataset = _hub_id(report.data.name)
    if dataset is None:
        return None
    entries = [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=_task(score),
            value=round(score.accuracy, 6),
            notes=_settings(score),
        )
        for score in report.rows()
    ]
    text: str = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return text


ON_THE_HUB = re.compile(
    r"(?:hf-hub:|hub:)(?P<repository>[\w.-]+/[\w.-]+)(@[\w.-]+)?(:.*)?|(?P<timm>timm/\w+\.\w+)", re.DOTALL
)
ELSEWHERE = "unknown"
"""The index of results wants an id of the Hub's for every data set; for others this is what it is told, as is usual."""


def _hub_id(source: str) -> str | None:
    """Return the Hub's id of an encoder or data id, where it names one, without commit, configuration and description.

    timm's weights are there under timm's names.
    """
    match = ON_THE_HUB.fullmatch(source)
    return (match["repository"] or match["timm"]) if match else None


def _task(score: Score) -> str:
    return "-".join(
        part for part in (str(score.column), score.attack if score.column != Knowledge.NOISE else "") if part
    )


def _settings(score: Score) -> str:
    low, high = score.interval
    interval = f"n = {score.n}, 95 % interval {low:.4f} to {high:.4f}"
    return (
        interval
        if not score.attack
        else f"{score.attack} at {budget_text(score)}, crafted on {score.crafting_data}, {interval}"
    )


def _model_index(report: RobustnessReport) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=_hub_id(report.data.name) or ELSEWHERE,
            dataset_name=report.data.name,
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"accuracy, {_task(score)}",
            metric_value=round(score.accuracy, 6),
            metric_args={"budget": score.budget, "n": score.n, "crafted_on": score.crafting_data}
            if score.attack
            else None,
        )
        for score in report.rows()
    ]


OURS = "gen-af"


def _method(report: RobustnessReport | None) -> str:
    """Return the name of the method that a report says the model was made with; empty where it does not say."""
    stated = ((report.config if report is not None else None) or {}).get("method")
    name = stated.get("name") if isinstance(stated, dict) else ""
    return name if isinstance(name, str) else ""


def _what(model: ModelFacts, method: str) -> str:
    names = [escaped(name) for name in model.class_names[:SHOWN_CLASSES]]
    more = f" and {len(model.class_names) - SHOWN_CLASSES} more" if len(model.class_names) > SHOWN_CLASSES else ""
    source = escaped(model.encoder.partition(":{")[0])
    height, width = model.image_size
    made = f"fine-tuned with the method {escaped(method)}." if method else "fine-tuned."
    if method == OURS:
        made = (
            "fine-tuned with Gen-AF (Zhou et al., IEEE S&P 2024) to withstand perturbations that an attacker crafts "
            "from that encoder alone."
        )
    return (
        "# Hardened image classifier\n\n"
        f"An image classifier on top of the public encoder {source}, {made} Made with genaf-sdk {model.version}.\n\n"
        f"- Input: `pixels`, float32 (batch, {model.channels}, {height}, {width}) in [0, 1]; normalization is "
        "inside.\n"
        f"- Output: `logits`, float32 (batch, {len(model.class_names)}).\n"
        f"- Classes: {', '.join(names)}{more}."
    )


def _figures(report: RobustnessReport | None) -> str:
    if report is None:
        return "## Robustness\n\nThis model was not attacked: nothing is known of its robustness."
    lines = [
        markdown_summary(report),
        "Everything that was measured on this model:",
        "",
        "| column | attack | budget | accuracy | 95 % interval | n |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for score in report.rows():
        low, high = score.interval
        cells = [score.column, escaped(score.attack), budget_text(score), f"{score.accuracy:.1%}"]
        lines.append(f"| {' | '.join(cells)} | {low:.1%} to {high:.1%} | {score.n} |")
    lines += [
        "",
        "Transfer: crafted on the public encoder. Adaptive: the same, crafted on this model's encoder. White-box: "
        "the attacker knows the whole model. Settings, seeds and the crafted perturbations are in `report.json` and "
        "`perturbations/`.",
    ]
    return "\n".join(lines)


def _use(model: ModelFacts) -> str:
    return f"""## Use

With onnxruntime and numpy alone:

```python
import json

import numpy as np
import onnxruntime
{_pixels(model)}
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
(logits,) = session.run(["logits"], {{"pixels": pixels}})
print(json.load(open("labels.json"))[int(logits[0].argmax())])
```

As a server: `genaf serve FOLDER`, with the code of your own genaf-sdk. Without it, `pip install -r
serve/requirements-cpu.txt && python -B -m serve` in the bundle's folder runs the publisher's copy of that code.
With torch: `genaf_sdk.HardenedModel.from_pretrained(...)`."""


ON_WHITE = """
if image.has_transparency_data:  # shown on white, as in training
    layers = image.convert("RGBA")
    image = Image.new("RGB", layers.size, "white")
    image.paste(layers, mask=layers)"""


def _pixels(model: ModelFacts) -> str:
    """Return code that makes ``pixels`` of a picture, as training and server do, or of an array where none will do."""
    if model.channels not in MODES:
        return f"""
pixels = np.load("image.npy").astype(np.float32)[None]  # ({model.channels}, {", ".join(map(str, model.image_size))})"""
    height, width = model.image_size
    mode, resampling = MODES[model.channels], FILTERS.get(model.interpolation, Image.Resampling.BILINEAR).name
    return f"""from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open("picture.png")){ON_WHITE if mode != "RGBA" else ""}
resampling = Image.Resampling.{resampling}
bands = image.convert("{mode}").split()  # each by itself, rows before columns, as in training
bands = [band.resize(({width}, band.height), resampling).resize(({width}, {height}), resampling) for band in bands]
pixels = np.stack([np.asarray(band, np.float32) for band in bands])[None] / 255"""


def _intended_use() -> str:
    return (
        "## Intended use\n\n"
        "For images like those it was trained on. The accuracies hold for the attacks, budgets and images stated, and "
        "for nothing else. Accuracy on other populations of images is not known."
    )


def _verify(report: RobustnessReport | None) -> str:
    if report is None:
        return "## Verify\n\nThere is no report to verify."
    return (
        "## Verify\n\n"
        "`genaf verify FOLDER --fresh` replays the saved perturbations through `model.onnx`, compares every count, the "
        "page and every file, lists what it could not measure again, and attacks anew with a seed of its own. It "
        "shows damage and mismatch, not who made this. It needs the test images "
        f"({escaped(report.data.name)}, fingerprint `{report.data.fingerprint[:16]}`)."
    )


def card_metadata(text: str) -> dict[str, Any]:
    """Return the YAML metadata of a card.

    Raises:
        ValueError: There is none.
    """
    import yaml

    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if match is None:
        raise ValueError("the card has no metadata")
    loaded: dict[str, Any] = yaml.safe_load(match.group(1))
    return loaded
