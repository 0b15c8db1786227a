"""Certified accuracy, what masks in training change, what certified answers cost, and accuracy under corruptions.

    python benchmarks/certificates.py FOLDER --train 20 --candidates 4 --masks 3 4 6 --served 64
    GENAF_DATA=FOLDER python benchmarks/certificates.py FOLDER --data gtsrb --samples 200 --corruptions 1000

measures the model in FOLDER. ``--train 20`` first trains it there: so many epochs on images of which a share is under
the certificate's masks, against no other attacker; ``--share 0`` trains without masks. A training that was stopped
(SIGTERM) goes on, and one that was finished is not repeated. Every certificate is a line of OUTPUT as soon as it is
there, and is not computed again for a folder of that name and the same options; that of signs says for each kind of
them what holds under single masks and under random pairs. ``--served`` compares the images a second of plain answers
and of certified ones on one thread, in processor seconds, by onnxruntime as the server runs it. For encoders see
robustness.py, for GTSRB mosaics.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from robustness import ENCODERS, load
from rows import Rows

from genaf_sdk import DataSplits, HardenConfig, HardenedModel, harden
from genaf_sdk.data.sampling import Sample, mask_color
from genaf_sdk.engine.checkpoints import FINISHED_FILE, FOLDER
from genaf_sdk.evaluation.certificates import certify, classes_of
from genaf_sdk.evaluation.corrupted import corruption_section
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.evaluation.settings import CertificateConfig
from genaf_sdk.export.serve import load_bundle
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.files import write_json
from genaf_sdk.inputs.masks import MaskSet
from genaf_sdk.methods import PGDAT, Masked
from genaf_sdk.report.certificate import proven
from genaf_sdk.report.scores import Role

if TYPE_CHECKING:
    from genaf_sdk.models.encoder import PixelEncoder

PAIRS = 100
"""Random pairs of masks that each image is tried under."""
COUNTS = ("n", "clean", "answered", "certified")
KINDS = {
    "speed limit": (0, 1, 2, 3, 4, 5, 7, 8),
    "other prohibition": (9, 10, 15, 16),
    "warning": (11, *range(18, 32)),
    "mandatory": tuple(range(33, 41)),
    "of its own shape or color": (12, 13, 14, 17),
    "end of a restriction": (6, 32, 41, 42),
}
"""Kinds of German signs, by the number of their classes."""


def main() -> None:
    """Train where asked to, then print a line for every number of masks and kind of corruption."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", choices=("digits", "gtsrb"), default="digits")
    parser.add_argument("--images", type=int, help="training images of gtsrb; by default all")
    parser.add_argument("--encoder", choices=list(ENCODERS), default="bundled", help="what is trained")
    parser.add_argument("--encoders", type=Path, default=Path(), help="folder of encoders")
    parser.add_argument("--size", type=int, default=32, help="pixels a side, to which images are resized")
    parser.add_argument("--train", type=int, default=0, metavar="EPOCHS")
    parser.add_argument("--share", type=float, default=0.5, help="of the images that training masks")
    parser.add_argument("--candidates", type=int, default=1, help="pairs of masks of which training takes the hardest")
    parser.add_argument("--trained-for", type=int, default=4, help="masks an axis, in training")
    parser.add_argument("--patch", type=float, default=0.03)
    parser.add_argument("--masks", type=int, nargs="*", default=[4])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--served", type=int, default=0, metavar="SAMPLES")
    parser.add_argument("--corruptions", type=int, default=0, metavar="SAMPLES")
    parser.add_argument("--output", type=Path, default=Path("docs/results/certificates/rows.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(options.encoders.resolve()))
    side = (options.size, options.size)
    encoder = ENCODERS[options.encoder](options.encoders, side)
    data = load(f"{options.data}:{options.images or ''}", Path(), encoder, seed=0)
    seconds = trained(encoder, data, options) if options.train else None
    own = None if options.encoder == "bundled" else ENCODERS[options.encoder](options.encoders, None).backbone
    model = HardenedModel.from_pretrained(options.folder, backbone=own)
    fill = mask_color(data.train, 0)
    sample = Sample.draw(data.test, None, seed=0)
    named = ("encoder", "size", "data", "images", "train", "share", "candidates", "trained_for")
    settings = {name: getattr(options, name) for name in named}
    if len(model.class_names) != len(data.class_names):
        raise SystemExit(
            f"The model of {options.folder} has {len(model.class_names)} classes, {options.data} has "
            f"{len(data.class_names)}: give the images it was made for (--data)"
        )
    rows = Rows(options.output, ("model", "masks_per_axis", "area", "n", *settings))
    for masks in options.masks:
        key = {"model": options.folder.name, "masks_per_axis": masks, "area": options.patch}
        if not rows.has(**key, n=min(options.samples, len(data.test)), **settings):
            chosen = CertificateConfig(patch=options.patch, masks=masks, samples=options.samples)
            parts = by_kind(Sample(sample.images, sample.order[: options.samples]), options.data)
            sections = {kind: certify(model, part, chosen, fill) for kind, part in parts.items()}
            sums = {name: sum(getattr(section, name) for section in sections.values()) for name in COUNTS}
            found = replace(next(iter(sections.values())), **sums)
            kinds = {
                kind: {name: getattr(section, name) for name in COUNTS} | under_masks(model, parts[kind], chosen, fill)
                for kind, section in sections.items()
            }
            rows.add(
                {"model": options.folder.name, **settings, "cpu_seconds": seconds, **asdict(found), "kinds": kinds}
            )
            print(f"{masks} masks an axis. {proven(found)}", flush=True)
    if options.served:
        print(served(model, sample, fill, options))
    if options.corruptions:
        section = corruption_section([EvaluatedModel.of(model, Role.HARDENED)], sample, options.corruptions)
        for row in section.rows:
            print(f"{row.kind}: {row.accuracy:.1%} of {row.n}, by strength {row.correct}")
        print(f"mean: {section.mean(Role.HARDENED):.1%}")


def trained(encoder: PixelEncoder, data: DataSplits, options: argparse.Namespace) -> float:
    """Train into the folder, from where an earlier call was stopped; return the processor seconds of all of them."""
    masked = Masked(
        inner=None,
        share=options.share,
        patch=options.patch,
        masks=options.trained_for,
        candidates=options.candidates,
    )
    config = HardenConfig(method=PGDAT(against=masked)).with_(method={"schedule": {"epochs": options.train}})
    spent = options.folder.with_name(f"{options.folder.name}.seconds.json")
    goes_on, finished = (options.folder / FOLDER).exists(), (options.folder / FOLDER / FINISHED_FILE).exists()
    before = json.loads(spent.read_text()) if goes_on else 0.0
    started = time.process_time()
    try:
        harden(encoder, data, config, output_dir=options.folder, evaluate=False, preflight=False, resume=goes_on)
    finally:
        seconds = before if finished else round(before + time.process_time() - started, 1)
        write_json(spent, seconds)
    return seconds


def by_kind(sample: Sample, data: str) -> dict[str, Sample]:
    """Return the images of every kind of sign that is among them; those of another set are of one kind."""
    kinds = KINDS if data == "gtsrb" else {"all": tuple(range(int(sample.labels.max()) + 1))}
    parts = {kind: sample.order[torch.isin(sample.labels, torch.tensor(of))] for kind, of in kinds.items()}
    return {kind: Sample(sample.images, order) for kind, order in parts.items() if len(order)}


def under_masks(
    model: HardenedModel, sample: Sample, config: CertificateConfig, fill: tuple[float, ...]
) -> dict[str, float]:
    """Return how many images are right under all single masks, and the share of answers under random pairs that are."""
    masks = MaskSet.for_area(model.image_size, config.patch, config.masks)
    two = masks.pairs[len(masks) :]
    some = two[torch.randperm(len(two), generator=torch.Generator().manual_seed(0))[:PAIRS]]
    color = torch.tensor(fill).view(-1, 1, 1)
    single = pairs = 0
    for pixels, labels in sample.batches():
        right = [
            classes_of(model, masks.hide(pixels, pair.expand(len(pixels), 2), color)) == labels
            for pair in torch.cat([masks.pairs[: len(masks)], some])
        ]
        single += int(torch.stack(right[: len(masks)]).all(dim=0).sum())
        pairs += int(torch.stack(right[len(masks) :]).sum())
    return {"under_every_mask": single, "share_of_pairs": round(pairs / (len(sample) * len(some)), 4)}


def served(model: HardenedModel, sample: Sample, fill: tuple[float, ...], options: argparse.Namespace) -> str:
    """Return how many images a second are answered, plain and with certificates."""
    pixels = next(iter(Sample(sample.images, sample.order[: options.served]).batches()))[0].numpy()
    rates = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = export_onnx(model, Path(scratch) / "model.onnx", color=fill)
        for masks in (0, *options.masks):
            certified = {"certify": options.patch, "masks": masks} if masks else {}
            classifier = load_bundle(path, threads=1, provider="cpu", **certified)
            answer, runs, started = classifier.defense or classifier.run, 0, time.process_time()
            while (spent := time.process_time() - started) < 1 or not runs:
                for start in range(0, len(pixels), classifier.max_batch):
                    answer(pixels[start : start + classifier.max_batch])
                runs += 1
            rates[f"{masks} masks an axis" if masks else "plain"] = runs * len(pixels) / spent
    return "images a second: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())


if __name__ == "__main__":
    main()
