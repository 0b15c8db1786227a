"""The metrics of an epoch: sums over its images, exact over all processes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from genaf_sdk.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.engine.processes import Processes

CHECK_EVERY = 20  # steps between two looks at the losses, each of which waits for the device


class EpochMetrics:
    """Sums over an epoch, kept on the device and read, over all processes at once, every ``CHECK_EVERY`` steps."""

    def __init__(self, stage: str, epoch: int, processes: Processes, sums: dict[str, float] | None = None) -> None:
        self.stage, self.epoch, self.processes = stage, epoch, processes
        self.sums = dict(sums or {"images": 0.0})
        self.pending: list[tuple[int, dict[str, Tensor]]] = []

    @property
    def is_due(self) -> bool:
        """Whether it is time to read."""
        return len(self.pending) >= CHECK_EVERY

    @property
    def text(self) -> str:
        """Loss and accuracy so far, for the progress bar."""
        images = max(self.sums["images"], 1.0)
        shown = {name: self.sums[name] / images for name in ("loss", "train_accuracy") if name in self.sums}
        return " ".join(f"{name} {value:.3f}" for name, value in shown.items())

    def add(self, step: int, images: int, sums: dict[str, Tensor]) -> None:
        """Note one step's sums over this process's rows, ``images`` of them, of the global batch."""
        self.pending.append((step, {"images": sums["loss"].new_tensor(images), **sums}))

    def means(self) -> dict[str, float]:
        """Return the mean of everything over the epoch's images."""
        self.read()
        images = max(self.sums["images"], 1.0)
        return {name: value / images for name, value in self.sums.items() if name != "images"}

    def read(self) -> None:
        """Wait for the pending steps and add them up.

        Raises:
            TrainingError: A loss is NaN or infinite; the error names the step.
        """
        if not self.pending:
            return
        names = list(self.pending[0][1])
        own = torch.stack([torch.stack([sums[name].float() for name in names]) for _, sums in self.pending]).cpu()
        for (step, _), row in zip(self.pending, self.processes.all_reduce(own).tolist(), strict=True):
            figures = dict(zip(names, row, strict=True))
            if not math.isfinite(figures["loss"]):
                raise TrainingError(
                    f"The loss of {self.stage} is {figures['loss']} at step {step} (epoch {self.epoch + 1}).",
                    remedy="lower the learning rates, use mixed_precision='no', look at the images, or pass over such "
                    "steps with non_finite='skip'; checkpoints hold finite weights only",
                )
            for name, value in figures.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.pending.clear()
