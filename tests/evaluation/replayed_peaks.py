"""Print the peak of resident memory, in MiB, of replays on few and on many test images; a program of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from genaf_sdk import HardenedModel
from genaf_sdk.data import LabeledImages
from genaf_sdk.data.sampling import Sample
from genaf_sdk.export.parity import predictions
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head

SIDE = 112


class Made:
    """Images that are made when they are asked for."""

    def __call__(self, indices: Sequence[int]) -> Tensor:
        return torch.full((len(indices), 3, SIDE, SIDE), 7, dtype=torch.uint8)

    def identities(self, _: Sequence[int]) -> None:
        return None


def main(path: Path, counts: Sequence[int]) -> None:
    """Replay an exported file on each number of images, clean and under two perturbations."""
    torch.set_num_threads(1)
    body = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    names = ("red", "green", "blue")
    model = HardenedModel(PixelEncoder(body), build_head("linear", 4, 3), class_names=names, image_size=(SIDE, SIDE))
    graph = OnnxModel(export_onnx(model.eval(), path))
    noise = Perturbation(torch.full((3, SIDE, SIDE), 0.01), Linf(0.01))
    for count in counts:
        images = LabeledImages(torch.arange(count) % 3, Made())
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        predictions(graph, Sample.draw(images, seed=0), {"one": noise, "two": noise})
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        sys.stdout.write(f"{peak // 1024}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(count) for count in sys.argv[2:]])
