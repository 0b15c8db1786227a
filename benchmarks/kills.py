"""Kill hardening runs at random moments, resume them, and compare the weights with those of an undisturbed run.

Every child is killed by SIGKILL or SIGTERM at a moment drawn from the length of an undisturbed run; after each kill all
files under a final name are read; a run is resumed until it completes. Run on an idle or a busy machine alike::

    OMP_NUM_THREADS=1 python benchmarks/kills.py --kills 200 --seed 0
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genaf_sdk import HardenConfig, harden
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.engine.checkpoints import FOLDER, METADATA_FILE, TENSORS_FILE, read_checkpoint
from genaf_sdk.errors import RunStoppedError

CONFIG = HardenConfig().with_(
    method={
        "schedule": {"epochs": 30, "batch_size": 32},
        "adaptability": {
            "epochs": 15,
            "batch_size": 32,
            "interpolations": 2,
            "sensitivity": {"steps": 1, "samples": 32},
        },
    },
    export={"precisions": ()},
)


class Encoder(nn.Module):
    """Two convolutions and a batch norm: pixels (N, 3, H, W) to features (N, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels to features."""
        return torch.relu(self.second(torch.relu(self.norm(self.first(x))))).mean((2, 3))


def images() -> DataSplits:
    """Return three classes of random images that differ by a color."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (192, 30, 30):
        labels = torch.arange(count) % 3
        colors = torch.eye(3)[labels][:, :, None, None]
        parts.append(
            LabeledImages.in_memory(0.6 * torch.rand(count, 3, 16, 16, generator=generator) + 0.4 * colors, labels)
        )
    return DataSplits(*parts, class_names=("red", "green", "blue"), name="colors")


def run(folder: Path) -> None:
    """Harden, going on from what ``folder`` holds."""
    torch.manual_seed(0)
    harden(Encoder(), images(), CONFIG, output_dir=folder, evaluate=False, progress=False, resume=True)


def start(folder: Path) -> int:
    """Run in a child process and return its number; forked, so that torch is imported once."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # the child ends below
        run(folder)
        code = 0
    except RunStoppedError:
        code = 3
    finally:
        os._exit(code)


def partial_files(folder: Path) -> list[str]:
    """Return what lies under a final name and cannot be read as a whole."""
    broken = []
    for checkpoint in (folder / FOLDER).glob("*/[0-9]*"):
        if {path.name for path in checkpoint.iterdir()} != {TENSORS_FILE, METADATA_FILE}:
            broken.append(str(checkpoint))
        else:
            read_checkpoint(checkpoint)
    for path in folder.rglob("*.json"):
        if ".partial" not in str(path):
            json.loads(path.read_text(encoding="utf-8"))
    if (folder / "model.safetensors").exists():
        load_file(folder / "model.safetensors")
    return broken


def where(folder: Path) -> str:
    """Say how far a run had come."""
    stages = [name for name in ("stage-1", "stage-2") if any((folder / FOLDER / name).glob("[0-9]*"))]
    if (folder / "model.safetensors").exists():
        return "writing"
    return stages[-1] if stages else "start"


def main(kills: int, seed: int) -> dict[str, object]:
    """Kill ``kills`` times and return counts; raise at the first thing that is not as it should be."""
    torch.set_num_threads(1)
    chance, done, runs = random.Random(seed), 0, 0  # noqa: S311  # no secret
    moments: collections.Counter[str] = collections.Counter()
    root = Path(tempfile.mkdtemp(prefix="genaf-kills-"))
    run(root / "undisturbed")  # here, so that no child has to import anything
    started = time.monotonic()
    os.waitpid(start(root / "timed"), 0)
    length = time.monotonic() - started
    expected = load_file(root / "undisturbed" / "model.safetensors")
    while done < kills:
        folder, completed = root / "disturbed", False
        shutil.rmtree(folder, ignore_errors=True)
        while not completed:
            child = start(folder)
            if done < kills:
                time.sleep(chance.uniform(0, length))
                number = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
                os.kill(child, number)
            _, status = os.waitpid(child, 0)
            completed = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
            if not completed:
                if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 3:
                    raise SystemExit(f"A resumed run failed with code {os.WEXITSTATUS(status)} in {folder}.")
                done += 1
                moments[f"{where(folder)} {number.name}"] += 1
                if broken := partial_files(folder):
                    raise SystemExit(f"Partial under a final name after kill {done}: {broken}.")
        runs += 1
        found = load_file(folder / "model.safetensors")
        if any(not torch.equal(value, found[name]) for name, value in expected.items()):
            raise SystemExit(f"Run {runs} ended in other weights after {done} kills: {folder}.")
    shutil.rmtree(root)
    return {"kills": done, "completed_runs": runs, "seed": seed, "undisturbed_seconds": round(length, 1), **moments}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.stdout.write(json.dumps(main(arguments.kills, arguments.seed), indent=2) + "\n")
