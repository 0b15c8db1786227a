"""How much memory evaluate, replay and verify take on many test images, beside the model; peaks of resident memory.

A folder of BMP files, which decode fast, is made of a few pictures and hard links to them. Each number of images is a
process of its own; "growth" is what its peaks are above those on the fewest images. Linux only, as it reads /proc::

    OMP_NUM_THREADS=1 python benchmarks/memory.py --images 1000 50000 --size 224
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn

from genaf_sdk import HardenConfig, HardenedModel, evaluate, load_data
from genaf_sdk.export.bundle import write_bundle
from genaf_sdk.export.outcome import Outcome
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head
from genaf_sdk.verification import verify

CLASSES, PICTURES, TRAINING = ("blue", "green", "red"), 16, 200
CONFIG = HardenConfig().with_(
    export={"precisions": ()},
    evaluation={
        "attacks": ("uapgd:steps=5", "pgd:steps=2"),
        "surrogate_samples": 64,
        "sample_wise_samples": 64,
        "curve": (),
        "checks": False,
    },
)


def pictures(root: Path, count: int, size: int) -> Path:
    """Write ``train/CLASS`` and ``test/CLASS`` with ``count`` test images of ``size`` x ``size`` pixels."""
    for split, wanted in (("train", TRAINING * len(CLASSES)), ("test", count)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(wanted // len(CLASSES)):
                path, original = folder / f"{index}.bmp", folder / f"{index % PICTURES}.bmp"
                if path != original:
                    path.hardlink_to(original)
                    continue
                noise = np.random.default_rng(len(CLASSES) * index + label).integers(0, 200, (8, 8, 3), dtype=np.uint8)
                noise[..., label] = 255
                Image.fromarray(noise).resize((size, size)).save(path)
    return root


def backbone() -> nn.Module:
    """Return an encoder of 6,000 weights that looks at patches of 16 x 16 pixels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def peak() -> int:
    """Return the peak of resident memory in bytes since ``forget``."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget() -> None:
    """Have the peak counted from now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def measure(folder: Path, size: int) -> dict[str, dict[str, float]]:
    """Evaluate, export with the replay, and verify; return processor seconds and peak MiB of each."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    started = time.process_time()

    def note(name: str) -> None:
        nonlocal started
        found[name] = {"peak_mib": round(peak() / 2**20), "seconds": round(time.process_time() - started, 1)}
        started = time.process_time()
        forget()

    model = HardenedModel(
        PixelEncoder(backbone()), build_head("mlp", 8, 3), class_names=CLASSES, image_size=(size, size)
    ).eval()
    data = load_data(folder, image_size=(size, size))
    note("load")
    report = evaluate(model, data, config=CONFIG.evaluation)
    note("evaluate")
    bundle = folder.with_name(f"{folder.name}-bundle")
    bundle.mkdir()
    write_bundle(model, bundle, SimpleNamespace(report=report, data=data, config=CONFIG))
    note("replay")
    verification = verify(bundle, folder, backbone=backbone())
    note("verify")
    replayed = [item.agrees for item in verification.items if item.outcome == Outcome.REPLAYED]
    if not replayed or not all(replayed):
        raise SystemExit(f"The bundle does not verify: {verification.summary}")
    return found


def main() -> None:
    """Print peaks for each number of images, and by how much they grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 50_000])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a child process
    arguments = parser.parse_args()
    if arguments.folder is not None:
        sys.stdout.write(json.dumps(measure(arguments.folder, arguments.size)))
        return
    least: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as root:
        for count in sorted(arguments.images):
            folder = pictures(Path(root) / str(count), count, arguments.size)
            command = [sys.executable, __file__, "--folder", str(folder), "--size", str(arguments.size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603  # this file
            found = json.loads(done.stdout)
            least = least or found
            for name, figures in found.items():
                growth = figures["peak_mib"] - least[name]["peak_mib"]
                print(
                    f"{count:>7,} images, {name:8}: peak {figures['peak_mib']:5.0f} MiB, growth {growth:5.0f} MiB, "
                    f"{figures['seconds']:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
