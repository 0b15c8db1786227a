"""The training loop that every stage and baseline shares: batches, optimizers, checkpoints, progress."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from genaf_sdk.errors import TrainingError
from genaf_sdk.files import replacing
from genaf_sdk.model import inference_mode_of
from genaf_sdk.progress import make_display
from genaf_sdk.tracking import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from accelerate import Accelerator

    from genaf_sdk.data import LabelledImages

CHECK_EVERY = 20  # steps between two looks at the losses, each of which waits for the device
EVALUATION_BATCH = 512


@dataclass
class Run:
    """What a run carries from stage to stage.

    Args:
        accelerator: Device, precision and processes.
        seed: Of every random choice.
        output_dir: Where checkpoints go; None keeps none.
        show_progress: Whether to show progress; None decides by whether somebody watches. See ``make_display``.
        history: One record an epoch: stage, epoch, mean losses, accuracies, seconds.
        metrics: Is told every record.
    """

    accelerator: Accelerator
    seed: int = 0
    output_dir: Path | None = None
    show_progress: bool | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.progress = make_display(self.show_progress, speaks=self.accelerator.is_main_process)

    def announce(self, stage: str) -> Callable[[str], None]:
        """Return a function that shows a line of text under ``stage`` in the progress bar."""
        task = self.progress.add_task(stage, total=None, figures="")

        def show(text: str) -> None:
            self.progress.update(task, figures=text)

        return show

    def generator(self, purpose: str) -> torch.Generator:
        """Return a CPU generator of its own for each purpose, different on each process."""
        salt = sum(ord(letter) * 31**place for place, letter in enumerate(purpose)) % 100_003
        rank = int(self.accelerator.process_index)
        return torch.Generator().manual_seed(self.seed * 1_000_003 + salt * 1009 + rank)

    def sum_over_processes(self, value: Tensor) -> Tensor:
        """Add ``value`` up over all processes."""
        total: Tensor = self.accelerator.reduce(value, reduction="sum")
        return total


@dataclass(frozen=True)
class Step:
    """What one batch gives: the loss to descend, named parts of it for the log, and how many images were right."""

    loss: Tensor
    parts: dict[str, Tensor]
    correct: Tensor


def make_loader(images: LabelledImages, batch_size: int, *, seed: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return shuffled whole batches, in an order that ``seed`` decides; a short last batch is kept if it has pairs."""
    size = min(batch_size, len(images))
    return DataLoader(
        images,
        batch_size=size,
        shuffle=True,
        drop_last=len(images) % size == 1,
        collate_fn=lambda batch: batch,
        generator=torch.Generator().manual_seed(seed),
    )


def fit(
    run: Run,
    model: nn.Module,
    images: LabelledImages,
    *,
    stage: str,
    epochs: int,
    batch_size: int,
    optimizers: Sequence[torch.optim.Optimizer],
    schedule: Callable[[float], float],
    step: Callable[[nn.Module, Tensor, Tensor], Step],
    after_backward: Callable[[], None] = lambda: None,
    validate: Callable[[], dict[str, float]] = dict,
    train_mode: Callable[[nn.Module], object] = nn.Module.train,
) -> None:
    """Train ``model`` in place.

    Args:
        run: Device, seed, history, progress.
        model: What the accelerator prepares; ``step`` receives the prepared one.
        images: Training images.
        stage: Name in the history, the progress bar and errors.
        epochs: Passes over the images.
        batch_size: Over all processes.
        optimizers: All are stepped after every batch.
        schedule: Factor on the learning rates, from the share of the training that is done, in [0, 1).
        step: Computes the loss of a batch: (model, pixels, labels) -> Step.
        after_backward: Called when gradients are there, before the optimizers step.
        validate: Called after every epoch; what it returns is recorded.
        train_mode: Puts the model into training mode.

    Raises:
        TrainingError: A loss is NaN or infinite; the error names the step and the last good checkpoint.
    """
    accelerator = run.accelerator
    loader = make_loader(images, max(2, batch_size // accelerator.num_processes), seed=run.seed)
    prepared, loader, *optimizers = accelerator.prepare(model, loader, *optimizers)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    total_steps, done = epochs * len(loader), 0
    task = run.progress.add_task(stage, total=total_steps, figures="")
    for epoch in range(epochs):
        started = time.monotonic()
        train_mode(model)
        totals = _Totals(stage, epoch, run.output_dir)
        for pixels, labels in loader:
            for optimizer, base in zip(optimizers, rates, strict=True):
                for group, rate in zip(optimizer.param_groups, base, strict=True):
                    group["lr"] = rate * schedule(done / total_steps)
                optimizer.zero_grad()
            result = step(prepared, pixels.contiguous(memory_format=torch.channels_last), labels)
            accelerator.backward(result.loss)
            after_backward()
            for optimizer in optimizers:
                optimizer.step()
            totals.add(result, len(labels), done)
            done += 1
            run.progress.update(task, advance=1, description=f"{stage} {epoch + 1}/{epochs}", figures=totals.text)
        record = {"stage": stage, "epoch": epoch + 1, **totals.means(), **validate()}
        record["seconds"] = round(time.monotonic() - started, 3)
        run.history.append(record)
        run.metrics.epoch(run.history)
        _save_checkpoint(run, model, stage)
    run.progress.remove_task(task)


class _Totals:
    """Sums over an epoch, kept on the device and read every ``CHECK_EVERY`` steps."""

    def __init__(self, stage: str, epoch: int, output_dir: Path | None) -> None:
        self.stage, self.epoch, self.output_dir = stage, epoch, output_dir
        self.pending: list[tuple[int, int, Step]] = []
        self.sums: dict[str, float] = {}
        self.images = 0
        self.text = ""

    def add(self, result: Step, count: int, step: int) -> None:
        detached = Step(result.loss.detach(), {k: v.detach() for k, v in result.parts.items()}, result.correct)
        self.pending.append((step, count, detached))
        if len(self.pending) == CHECK_EVERY:
            self._read()

    def means(self) -> dict[str, float]:
        self._read()
        return {name: value / max(self.images, 1) for name, value in self.sums.items()}

    def _read(self) -> None:
        for step, count, result in self.pending:
            if not math.isfinite(float(result.loss)):
                kept = "no checkpoint was kept, as there is no output_dir"
                if self.output_dir is not None:
                    kept = (
                        f"the weights after the last good epoch are in {checkpoint_path(self.output_dir, self.stage)}"
                    )
                    kept = kept if self.epoch else "no epoch was complete yet"
                where = f"step {step + 1} (epoch {self.epoch + 1})"
                raise TrainingError(
                    f"The loss of {self.stage} is {float(result.loss)} at {where}; {kept}.",
                    remedy="lower the learning rates, or use mixed_precision='no'",
                )
            figures = {"loss": float(result.loss) * count, "train_accuracy": float(result.correct)}
            figures |= {name: float(value) * count for name, value in result.parts.items()}
            for name, value in figures.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.images += count
        self.pending.clear()
        if self.images:
            shown = {name: self.sums[name] / self.images for name in ("loss", "train_accuracy")}
            self.text = " ".join(f"{name} {value:.3f}" for name, value in shown.items())


def checkpoint_path(output_dir: Path, stage: str) -> Path:
    """Return where the weights of a stage's last complete epoch are kept while it runs."""
    return output_dir / "checkpoints" / f"{stage.replace(' ', '-')}.safetensors"


def _save_checkpoint(run: Run, model: nn.Module, stage: str) -> None:
    if run.output_dir is not None and run.accelerator.is_main_process:
        state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        with replacing(checkpoint_path(run.output_dir, stage)) as temporary:
            save_file(state, temporary)


def cosine(done: float) -> float:
    """Learning-rate factor: linear warm-up over a twentieth of the training, then a cosine to zero."""
    warm_up = 0.05
    if done < warm_up:
        return max(done / warm_up, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def exponential(epochs: int) -> Callable[[float], float]:
    """Learning-rate factor of the paper: 0.96 an epoch."""
    return lambda done: 0.96 ** math.floor(done * epochs + 1e-9)


def random_shift(pixels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Translate each image by up to ``most`` pixels each way, its edges repeated. (N, C, H, W) -> the same."""
    if most == 0:
        return pixels
    count, _, height, width = pixels.shape
    padded = F.pad(pixels, (most,) * 4, mode="replicate")
    offsets = torch.randint(2 * most + 1, (2, count, 1), generator=generator).to(pixels.device)
    rows = (offsets[0] + torch.arange(height, device=pixels.device))[:, :, None]
    columns = (offsets[1] + torch.arange(width, device=pixels.device))[:, None, :]
    images = torch.arange(count, device=pixels.device)[:, None, None]
    return padded[images, :, rows, columns].permute(0, 3, 1, 2)


def batches(images: LabelledImages, size: int = EVALUATION_BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every image once, in order."""
    for start in range(0, len(images), size):
        yield images.__getitems__(range(start, min(start + size, len(images))))


@torch.no_grad()
def accuracy(model: nn.Module, images: LabelledImages, device: torch.device) -> float:
    """Return the share of ``images`` that ``model`` (pixels to logits) gets right: an exact count."""
    with inference_mode_of(model):
        right = sum(int((model(x.to(device)).argmax(1) == y.to(device)).sum()) for x, y in batches(images))
    return right / len(images)
