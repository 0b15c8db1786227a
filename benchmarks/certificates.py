"""Certified accuracy, and accuracy under common corruptions, of a model on GTSRB (``GENAF_DATA``, see mosaics.py).

``python benchmarks/certificates.py FOLDER --samples 200 --masks 3 4 6 --corruptions 1000`` measures the model in
FOLDER. ``--train 10`` first trains it there: so many epochs on images under the certificate's masks alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from mosaics import load_mosaic

from genaf_sdk import HardenConfig, HardenedModel, harden
from genaf_sdk.data.sampling import Sample
from genaf_sdk.evaluation.certificates import certify
from genaf_sdk.evaluation.corrupted import corruption_section
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.evaluation.settings import CertificateConfig
from genaf_sdk.inputs.masks import COLOR_IMAGES, mean_color
from genaf_sdk.methods import PGDAT, Masked
from genaf_sdk.report.certificate import proven
from genaf_sdk.report.scores import Role


def main() -> None:
    """Train where asked to, then print a line for every number of masks and kind of corruption."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=0, metavar="EPOCHS")
    parser.add_argument("--patch", type=float, default=0.03)
    parser.add_argument("--masks", type=int, nargs="*", default=[4])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--corruptions", type=int, default=0, metavar="SAMPLES")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_mosaic("gtsrb", None, 0)
    if options.train:
        method = PGDAT(against=Masked(inner=None, share=0.75, patch=options.patch))
        config = HardenConfig(method=method).with_(method={"schedule": {"epochs": options.train}})
        harden("bundled:simclr-cifar10", data, config, evaluate=False).model.save_pretrained(options.folder)
    model = HardenedModel.from_pretrained(options.folder)
    fill = mean_color(data.train.head(COLOR_IMAGES, seed=0)[0])
    sample = Sample.draw(data.test, None, seed=0)
    for masks in options.masks:
        chosen = CertificateConfig(patch=options.patch, masks=masks, samples=options.samples)
        print(f"{masks} masks an axis. {proven(certify(model, sample, chosen, fill))}", flush=True)
    if options.corruptions:
        found = corruption_section([EvaluatedModel.of(model, Role.HARDENED)], sample, options.corruptions)
        for row in found.rows:
            print(f"{row.kind}: {row.accuracy:.1%} of {row.n}, by strength {row.correct}")
        print(f"mean: {found.mean(Role.HARDENED):.1%}")


if __name__ == "__main__":
    main()
