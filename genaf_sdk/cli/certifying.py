"""``genaf certify``: what no patch can change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from genaf_sdk.cli.output import DONE, Command, console
from genaf_sdk.settings import Epsilon, converted

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SHORTER = "Shorter: fewer images (--samples) or fewer --masks."


@dataclass(frozen=True)
class Certify(Command):
    """Prove for how many images no patch, wherever it lies and whatever it shows, changes the right answer."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder that `genaf harden` left, whose model.onnx is certified (without one, its weights); an ONNX file; or a Hub
    id."""
    data: str = "digits"
    """Data id or image folder, as for `genaf harden`."""
    patch: float = 0.03
    """Share of the image that a patch may cover, at the size that the network takes."""
    masks: int = 4
    """Masks along each axis: more are smaller, prove more, and cost more: with 6 up to 666 passes an image."""
    samples: int = 1000
    """How many test images are certified."""
    seed: int = 0
    """Random seed of the order of the test images and of the validation split, as for `genaf evaluate`."""

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.data import load_data
        from genaf_sdk.data.alignment import aligned
        from genaf_sdk.data.sampling import Sample, mask_color
        from genaf_sdk.estimates import duration, seconds_of_certificates
        from genaf_sdk.evaluation.certificates import certify
        from genaf_sdk.evaluation.settings import CertificateConfig
        from genaf_sdk.export.runtime import OnnxModel
        from genaf_sdk.inputs.masks import MaskSet
        from genaf_sdk.progress import make_display
        from genaf_sdk.report.certificate import certificate_limits, proven

        patch = converted(Epsilon, self.patch, "patch")
        config = CertificateConfig(patch=patch, masks=self.masks, samples=self.samples)
        classify, what, names, options = _classifier(self.model)
        data = load_data(self.data, seed=self.seed, **options)
        data = aligned(data, names, model="the model") if names else data
        stated = classify.mean_color if isinstance(classify, OnnxModel) else ()
        fill = stated or mask_color(data.train, self.seed)
        sample = Sample.draw(data.test, None, seed=self.seed)
        masks = MaskSet.for_area((sample.shape[1], sample.shape[2]), patch, self.masks)
        most = duration(seconds_of_certificates(classify, sample, config, len(masks)))
        console(stderr=True).print(f"The certificates take up to about {most} here. {SHORTER}")
        with make_display(wanted=True) as display:
            task = display.add_task("certifying", total=min(self.samples, len(data.test)))

            def show(done: int, total: int) -> None:
                display.update(task, completed=done, figures=f"{done} of {total} images")

            found = certify(classify, sample, config, fill, show)
        content = {"model": what, **asdict(found), "accuracy": found.accuracy, "interval": found.interval}
        self.answer(content, f"{what}. {proven(found)}", *(f"- {limit}" for limit in certificate_limits(found)))
        return DONE


def _classifier(model: str) -> tuple[Callable[[Tensor], Tensor], str, list[str], dict[str, Any]]:
    """Return what classifies, what it is, its class names, and how images are loaded for it."""
    from genaf_sdk.engine.accelerator import own_device
    from genaf_sdk.export.layout import MODEL_FILE
    from genaf_sdk.export.runtime import OnnxModel
    from genaf_sdk.hardened import HardenedModel
    from genaf_sdk.models.checksums import check_listed

    path = Path(model)
    if path.is_dir():
        check_listed(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if file.is_file():
        graph = OnnxModel(file)
        return graph, f"Certified: {file}", graph.class_names, graph.image_options
    weights = HardenedModel.from_pretrained(model).to(own_device())
    options = {
        "image_size": weights.image_size,
        "channels": weights.encoder.channels,
        "interpolation": weights.encoder.interpolation,
    }
    return weights, f"Certified: the weights of {model}", list(weights.class_names), options
