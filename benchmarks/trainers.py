"""Ways to train against attacks, ours and those of other packages, watched epoch by epoch: what price.py compares.

Encoder, images, batches, epochs and, but for ART's FBF, optimizer and learning rates are the same for all. Not alike:
ours shifts images by up to two pixels, as its presets say, and looks at the validation images after every epoch, whose
time counts. ART's FBF leaves the model in eval mode, and so batch norm at the statistics of the published encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timing import CLOCKS
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk import DataSplits, HardenConfig
from genaf_sdk.engine.accelerator import own_accelerator
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.schedule import Schedule
from genaf_sdk.engine.tracking import Metrics
from genaf_sdk.engine.train import train
from genaf_sdk.memory import reused_memory
from genaf_sdk.methods.lab import Lab
from genaf_sdk.methods.pgd import PGD
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.preparation import new_classifier

if TYPE_CHECKING:
    from genaf_sdk.hardened import HardenedModel

EPSILON, STEP = 8 / 255, 2 / 255
TRADES_BETA = 6.0
"""As published; ours has 1, which serves it better."""


@dataclass
class Snapshot:
    """The model after an epoch: how long training has taken until then, and its weights."""

    epoch: int
    seconds: float
    weights: dict[str, Tensor]


@dataclass
class Watch(Metrics):
    """Stops the clock at the end of an epoch, and keeps what the model is then.

    Args:
        clock: ``cpu`` or ``wall``.
        model: The one that is trained.
        kept: After which epochs its weights are kept, and always at the end.
    """

    clock: str = "cpu"
    model: nn.Module = field(default_factory=nn.Module)
    kept: tuple[int, ...] = ()
    snapshots: list[Snapshot] = field(default_factory=list)

    def start_clock(self) -> None:
        """Begin."""
        self._epochs, self._before, self._started = 0, 0.0, CLOCKS[self.clock]()

    def epoch(self, *_: object) -> None:  # the engine gives its records
        """Note the end of an epoch; what that takes does not count."""
        self._epochs += 1
        if self._epochs in self.kept:
            self._keep()

    def stop_clock(self) -> None:
        """End; what followed the last epoch, such as choosing among weights, counts and may have changed them."""
        self.snapshots = [snapshot for snapshot in self.snapshots if snapshot.epoch != self._epochs]
        self._keep()

    def _keep(self) -> None:
        self._before += CLOCKS[self.clock]() - self._started
        weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.snapshots.append(Snapshot(self._epochs, round(self._before, 3), weights))
        self._started = CLOCKS[self.clock]()


@dataclass(frozen=True)
class Task:
    """What every way of training is given: encoder, images, epochs, seed, steps of PGD, our precision, batch size."""

    published: PixelEncoder
    data: DataSplits
    epochs: int
    seed: int
    steps: int
    precision: str
    batch_size: int

    @property
    def schedule(self) -> dict[str, Any]:
        """What ours would find out by itself is set, as for the others: the rate follows from the encoder's size."""
        return {"batch_size": self.batch_size, "encoder_learning_rate": None, "epochs": self.epochs}

    def model(self) -> HardenedModel:
        """Return the encoder with a fresh head, the same for everybody."""
        return new_classifier(self.published, self.data, self.seed)


Trainer = Callable[[Task, Watch], None]


def ours(preset: str, *, pgd: bool = False, precision: str | None = None) -> Trainer:
    """Return a preset of this package; with ``pgd``, against as many steps as the other packages take."""

    def run(task: Task, watch: Watch) -> None:
        changes: dict[str, Any] = {"schedule": task.schedule}
        if pgd:
            changes["against"] = PGD(epsilon=EPSILON, step_size=STEP, steps=task.steps)
        config = HardenConfig.preset(preset).with_(seed=task.seed, method=changes)
        watch.model = model = task.model()
        watch.start_clock()
        with own_accelerator(precision or task.precision) as engine, reused_memory():
            settings = Run(engine, task.seed, show_progress=False, machine=config.machine, metrics=watch)
            lab = Lab(settings, model, task.data)
            for stage in config.method.stages(lab):
                train(settings, model, task.data, stage)
        watch.stop_clock()

    return run


def torchattacks_loop(task: Task, watch: Watch) -> None:
    """The loop that everybody writes: PGD of torchattacks, cross-entropy, one step; a batch after another."""
    import torchattacks

    watch.model = model = task.model()
    attack = torchattacks.PGD(model, eps=EPSILON, alpha=STEP, steps=task.steps, random_start=True)
    pixels, labels = task.data.train.sample()
    optimizer, batch_size = _optimizer(task, model, watch)
    generator = torch.Generator().manual_seed(task.seed)
    watch.start_clock()
    for _ in range(task.epochs):
        for rows in torch.randperm(len(pixels), generator=generator).split(batch_size):
            adversarial = attack(pixels[rows], labels[rows])
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(adversarial), labels[rows]).backward()
            optimizer.step()
    watch.stop_clock()


def art(name: str) -> Trainer:
    """Return a trainer of ART. FBF sets learning rates itself, for SGD; the others get the optimizer that ours has."""

    def run(task: Task, watch: Watch) -> None:
        from art.attacks.evasion import ProjectedGradientDescent
        from art.defences import trainer as trainers
        from art.estimators.classification import PyTorchClassifier

        watch.model = model = task.model()
        pixels, labels = task.data.train.sample()
        one_hot = F.one_hot(labels, len(task.data.class_names)).float()  # FBF's trainer takes no others
        optimizer, batch_size = _optimizer(task, model, watch, sgd=name == "AdversarialTrainerFBFPyTorch")
        classifier = PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            optimizer=optimizer,
            input_shape=tuple(pixels.shape[1:]),
            nb_classes=len(task.data.class_names),
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        pgd = {"eps": EPSILON, "eps_step": STEP, "max_iter": task.steps, "num_random_init": 1}
        if name == "AdversarialTrainerMadryPGD":
            trainer = trainers.AdversarialTrainerMadryPGD(classifier, batch_size=batch_size, **pgd)
        elif name == "AdversarialTrainerTRADESPyTorch":
            attack = ProjectedGradientDescent(classifier, batch_size=batch_size, verbose=False, **pgd)
            trainer = trainers.AdversarialTrainerTRADESPyTorch(classifier, attack, TRADES_BETA)
        else:
            trainer = trainers.AdversarialTrainerFBFPyTorch(classifier, eps=EPSILON)
        watch.start_clock()
        trainer.fit(pixels.numpy(), one_hot.numpy(), batch_size=batch_size, nb_epochs=task.epochs)
        watch.stop_clock()

    return run


def _optimizer(
    task: Task, model: HardenedModel, watch: Watch, *, sgd: bool = False
) -> tuple[torch.optim.Optimizer, int]:
    """Return an optimizer that follows our schedule by itself and tells the watch of epochs, and the batch size."""
    schedule = Schedule().with_(**task.schedule)
    size = sum(parameter.numel() for parameter in model.encoder.parameters())
    rates = (schedule.encoder_rate(size), schedule.head_learning_rate)
    parts = zip((model.encoder, model.head), rates, strict=True)
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in parts]
    steps = -(-len(task.data.train) // task.batch_size)
    if sgd:
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    else:
        optimizer = torch.optim.Adam(groups, weight_decay=schedule.weight_decay)
        decay = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda done: schedule.factor(min(done / (task.epochs * steps), 1.0))
        )
        optimizer.register_step_post_hook(lambda *_: decay.step())
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        if done % steps == 0:
            watch.epoch()

    optimizer.register_step_post_hook(count)
    return optimizer, task.batch_size


def seed_everything(seed: int) -> None:
    """Seed torch and numpy, whose global generators the other packages draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # ART uses no other


TRAINERS: dict[str, Trainer] = {
    "default": ours("default"),
    "fine-tuning": ours("fine-tuning"),
    "torchattacks PGD loop": torchattacks_loop,
    "ART MadryPGD": art("AdversarialTrainerMadryPGD"),
    "pgd-at": ours("pgd-at"),
    "ART FBF": art("AdversarialTrainerFBFPyTorch"),
    "trades": ours("trades"),
    "universal-at": ours("universal-at"),
    "pgd-at, PGD of the others": ours("pgd-at", pgd=True),
    "ART TRADES": art("AdversarialTrainerTRADESPyTorch"),
}
EPOCHS = {
    "ours, fp32": ours("pgd-at", pgd=True, precision="no"),
    "torchattacks loop": torchattacks_loop,
    "ours, bf16": ours("pgd-at", pgd=True, precision="bf16"),
    "ART": art("AdversarialTrainerMadryPGD"),
}
"""What an epoch of PGD-AT takes."""
