"""Test images are asked for in batches whose size does not depend on their number: in evaluate, replay and verify."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from training import TinyEncoder, stripes, tiny_model

from genaf_sdk import HardenConfig, evaluate
from genaf_sdk.data import DataSplits, LabeledImages, sampling
from genaf_sdk.export.bundle import write_bundle
from genaf_sdk.export.outcome import Outcome
from genaf_sdk.verification import verify

BATCH = 16
CONFIG = HardenConfig().with_(
    export={"precisions": ("fp16",)},
    evaluation={
        "attacks": ("uapgd:steps=2", "pgd:steps=2"),
        "surrogate_samples": 12,
        "sample_wise_samples": 12,
        "curve": (16 / 255,),
        "corruption_samples": None,
    },
)


@dataclass
class Watched:
    """Reads images, and notes the most that were asked for at a time."""

    pixels: Tensor
    asked: list[int] = field(default_factory=list)

    def __call__(self, indices: Sequence[int]) -> Tensor:
        self.asked.append(len(indices))
        return self.pixels[torch.as_tensor(indices, dtype=torch.long)]

    def identities(self, _: Sequence[int]) -> None:
        return None


def test_no_more_than_a_batch_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_IMAGES", BATCH)
    pixels, labels = stripes(150, 2)
    watched = Watched(pixels)
    parts = [LabeledImages.in_memory(*stripes(count, seed)) for seed, count in enumerate((24, 12))]
    test = LabeledImages(labels, watched, on_disk=True)
    data = DataSplits(*parts, test, class_names=("red", "green", "blue"), name="stripes")
    assert data.fingerprint
    assert max(watched.asked) <= 64, "hashed in pieces"
    watched.asked.clear()
    model = tiny_model(TinyEncoder()).eval()
    report = evaluate(model, data, config=CONFIG.evaluation)
    assert sum(watched.asked) >= 150
    write_bundle(model, tmp_path, SimpleNamespace(report=report, data=data, config=CONFIG))
    items = verify(tmp_path, data, backbone=TinyEncoder()).items
    replayed = [item.agrees for item in items if item.outcome == Outcome.REPLAYED]
    assert replayed
    assert all(replayed)
    assert max(watched.asked) <= 2 * BATCH


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
def test_the_peak_does_not_follow_the_number_of_images(tmp_path: Path) -> None:
    """What a batch took is given back: 1,500 images more are 226 MB more as floats, and again for each view of them."""
    program = [sys.executable, str(Path(__file__).with_name("replayed_peaks.py")), str(tmp_path / "model.onnx")]
    printed = subprocess.run([*program, "500", "500", "2000"], stdout=subprocess.PIPE, text=True, check=True).stdout
    first, again, many = map(int, printed.split())  # glibc's heap grows in pieces of 32 MiB, the first time for good
    assert many - max(first, again) < 64
