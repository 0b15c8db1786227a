"""Are our attacks as strong and as fast as those of other packages? Same model, images, budget and steps, in one run.

    pip install --target PEERS --no-deps torchattacks foolbox eagerpy gitpython gitdb smmap
    PYTHONPATH=PEERS python benchmarks/peers.py MODEL --data digits
    GENAF_DATA=FOLDER PYTHONPATH=PEERS python benchmarks/peers.py MODEL --data gtsrb

MODEL is a folder that ``genaf harden`` left. ART (adversarial-robustness-toolbox) comes with ``genaf-sdk[autoattack]``.
The others are installed into a folder of their own, as torchattacks asks for an old ``requests``.

Each round runs every package on an attack, then goes to the next attack; every second round goes through the packages
backwards. What comes out is scored by one function here, in float32, after a look at budget and range. Imports take no
part in the time. Every run is a line of OUTPUT/rows.jsonl as soon as it is done: a measurement of the same model,
images and seed that was stopped goes on. The table has this measurement, and takes medians.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mosaics import load_mosaic
from rows import Row, Rows
from timing import CLOCKS, machine, median, parser_of, table
from torch import Tensor, nn

from genaf_sdk import HardenedModel, load_data
from genaf_sdk.attacks import SampleWiseAttack, UniversalModelAttack, load_attack

if TYPE_CHECKING:
    import argparse

EPSILON, UNIVERSAL = 8 / 255, 10 / 255
PGD_STEPS, STEP = 20, 2 / 255
APGD_STEPS, QUERIES = 30, 500
PACKAGES = {
    "ours": "genaf-sdk",
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
}
MODULES = ("torchattacks", "foolbox", "art.attacks.evasion", "art.estimators.classification")
TOLERANCE = 1e-6
TARGETS = 9
"""Classes that targeted attacks try, as published."""
KEY = ("model", "data", "n", "seed", "attack", "package", "round")
SAMPLES = 64
"""Images of a measurement; one of fewer is a try, whose rows docs/results does not hold."""
SURROGATES = 128
"""Images that universal attacks are crafted on."""


@dataclass(frozen=True)
class Subject:
    """What is attacked: a model, and images with labels to score on and, for universal attacks, to craft on."""

    model: nn.Module
    pixels: Tensor
    labels: Tensor
    surrogate: Tensor
    surrogate_labels: Tensor


Attack = Callable[[Subject, int], Tensor]
"""Adversarial versions (N, C, H, W) of the subject's images, by a seed."""


def ours(text: str) -> Attack:
    """Return an attack of this package."""

    def run(subject: Subject, seed: int) -> Tensor:
        attack = load_attack(text)
        if isinstance(attack, UniversalModelAttack):
            crafted = attack(subject.model, subject.surrogate, subject.surrogate_labels, seed=seed)
            return crafted.apply(subject.pixels)
        if not isinstance(attack, SampleWiseAttack):
            raise TypeError(f"{text} needs an encoder")
        return attack(subject.model, subject.pixels, subject.labels, seed=seed)

    return run


def torchattacks(name: str, **settings: Any) -> Attack:
    """Return an attack of torchattacks, whose targeted one has as many targets as ours, and not every class."""

    def run(subject: Subject, seed: int) -> Tensor:
        import torchattacks as package

        more = {"n_classes": min(classes_of(subject), TARGETS + 1)} if name == "APGDT" else {}  # targets, and the right
        seeded = {} if name == "PGD" else {"seed": seed}
        return getattr(package, name)(subject.model, **settings, **more, **seeded)(subject.pixels, subject.labels)

    return run


def foolbox_pgd(subject: Subject, _seed: int) -> Tensor:
    """PGD of foolbox."""
    import foolbox

    model = foolbox.PyTorchModel(subject.model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=PGD_STEPS, random_start=True)
    return attack.run(model, subject.pixels, subject.labels, epsilon=EPSILON)


def art(name: str, **settings: Any) -> Attack:
    """Return an attack of ART; a universal one is crafted on the surrogate images and put on the others."""

    def run(subject: Subject, _seed: int) -> Tensor:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            subject.model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(subject.pixels.shape[1:]),
            nb_classes=classes_of(subject),
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        attack = getattr(evasion, name)(classifier, verbose=False, **settings)
        if name != "UniversalPerturbation":
            return torch.from_numpy(attack.generate(subject.pixels.numpy(), subject.labels.numpy()))
        attack.generate(subject.surrogate.numpy(), subject.surrogate_labels.numpy())
        return (subject.pixels + torch.from_numpy(attack.noise).float()).clamp(0, 1)

    return run


FIXED = {"eps": EPSILON, "norm": np.inf}
ATTACKS: dict[str, dict[str, Attack]] = {
    f"PGD, {PGD_STEPS} steps": {
        "ours": ours(f"pgd:steps={PGD_STEPS},budget=8/255"),
        "torchattacks": torchattacks("PGD", eps=EPSILON, alpha=STEP, steps=PGD_STEPS, random_start=True),
        "foolbox": foolbox_pgd,
        "art": art(
            "ProjectedGradientDescent", **FIXED, eps_step=STEP, max_iter=PGD_STEPS, num_random_init=1, batch_size=250
        ),
    },
    f"APGD-CE, {APGD_STEPS} steps": {
        "ours": ours(f"apgd-ce:steps={APGD_STEPS},budget=8/255"),
        "torchattacks": torchattacks("APGD", eps=EPSILON, steps=APGD_STEPS, n_restarts=1, loss="ce"),
        "art": art(
            "AutoProjectedGradientDescent",
            **FIXED,
            eps_step=2 * EPSILON,
            max_iter=APGD_STEPS,
            nb_random_init=1,
            batch_size=250,
            loss_type="cross_entropy",
        ),
    },
    f"APGD-T, {APGD_STEPS} steps, {TARGETS} targets": {
        "ours": ours(f"apgd-t:steps={APGD_STEPS},targets={TARGETS},budget=8/255"),
        "torchattacks": torchattacks("APGDT", eps=EPSILON, steps=APGD_STEPS, n_restarts=1),
    },
    f"Square, {QUERIES:,} queries": {
        "ours": ours(f"square:queries={QUERIES},budget=8/255"),
        "torchattacks": torchattacks("Square", eps=EPSILON, n_queries=QUERIES, n_restarts=1),
        "art": art("SquareAttack", **FIXED, max_iter=QUERIES, nb_restarts=1, batch_size=250),
    },
    "universal": {
        "ours": ours(f"label-uap:goals=0,steps={PGD_STEPS * SURROGATES // 64},batch_size=64"),
        "art": art(
            "UniversalPerturbation",
            attacker="pgd",
            attacker_params={**FIXED, "eps": UNIVERSAL, "eps_step": STEP, "max_iter": PGD_STEPS, "verbose": False},
            delta=0.01,
            max_iter=1,
            eps=UNIVERSAL,
            norm=np.inf,
            batch_size=250,
        ),
    },
}
"""By attack and package. 40 universal steps on batches of 64 are as many passes forth and back as ART's 20 on each of
128 images, the most it makes. It also asks for the class of each before and after, ours for those of held-out ones."""


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = parser_of(__doc__, repeats=2, processor=True, records=False)
    parser.add_argument("model", help="folder of a hardened model")
    parser.add_argument("--data", choices=("digits", "gtsrb"), default="digits")
    parser.add_argument("--attacks", nargs="+", choices=[name.split(",")[0] for name in ATTACKS])
    parser.add_argument("--samples", type=int, default=SAMPLES, help="images to attack")
    parser.add_argument("--output", type=Path, help="by default docs/results/peers, of fewer images benchmarks/results")
    arguments = parser.parse_args()
    place = "docs" if arguments.samples >= SAMPLES else "benchmarks"
    output = arguments.output or Path(place, "results", "peers")
    torch.set_num_threads(arguments.threads)
    for module in MODULES:
        importlib.import_module(module)
    rows = Rows(output / "rows.jsonl", KEY)
    subject = read_subject(arguments)
    same = {
        "model": digest(subject.model),
        "data": arguments.data,
        "n": len(subject.pixels),
        "seed": arguments.seed,
    }
    for round_number in range(arguments.repeats):
        for attack, packages in ATTACKS.items():
            if attack.split(",")[0] not in (arguments.attacks or attack):
                continue
            for package in list(packages)[:: -1 if round_number % 2 else 1]:
                key = {**same, "attack": attack, "package": package, "round": round_number}
                if not rows.has(**key):
                    rows.add({**key, **measure(subject, packages[package], attack, arguments, round_number)})
                    print(rows_text(list(rows)[-1]), flush=True)
    print(markdown(rows.of(**same)))


def read_subject(arguments: argparse.Namespace) -> Subject:
    """Return the model and its images, contiguous as every package takes them."""
    seed = arguments.seed
    model = HardenedModel.from_pretrained(arguments.model).to(memory_format=torch.channels_last).eval()
    if arguments.data == "gtsrb":
        data = load_mosaic("gtsrb", None, seed)
    else:
        data = load_data(arguments.data, image_size=model.image_size, seed=seed)
    return Subject(model, *data.test.sample(arguments.samples, seed=seed), *data.train.sample(SURROGATES, seed=seed))


def digest(model: nn.Module) -> str:
    """Return what tells models apart: the beginning of the SHA-256 of all weights."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def measure(subject: Subject, attack: Attack, name: str, arguments: argparse.Namespace, round_number: int) -> Row:
    """Run one attack of one package; return its strength and its cost."""
    budget = UNIVERSAL if name == "universal" else EPSILON
    seed = arguments.seed + round_number
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # ART draws from no other
    clock = CLOCKS[arguments.clock]
    started = clock()
    adversarial = attack(subject, seed).detach()
    seconds = clock() - started
    require_within(adversarial, subject.pixels, budget)
    return {
        "right": right(subject, adversarial),
        "clean": right(subject, subject.pixels),
        "seconds": round(seconds, 3),
        "budget": round(255 * budget),
        "versions": {name: importlib.metadata.version(package) for name, package in PACKAGES.items()},
        "machine": machine(arguments),
    }


def require_within(adversarial: Tensor, pixels: Tensor, budget: float) -> None:
    """Refuse images that a package changed by more than it may; otherwise they would count as strong."""
    change = float((adversarial - pixels).abs().max())
    low, high = float(adversarial.min()), float(adversarial.max())
    if change > budget + TOLERANCE or low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(f"pixels from {low} to {high}, changed by up to {change}; {budget} is allowed")


@torch.no_grad()
def right(subject: Subject, pixels: Tensor) -> int:
    """Return how many images the model gets right, in float32."""
    return int((subject.model(pixels.float()).argmax(dim=1) == subject.labels).sum())


def classes_of(subject: Subject) -> int:
    """Return the number of classes."""
    with torch.no_grad():
        return int(subject.model(subject.pixels[:1]).shape[1])


def rows_text(row: Row) -> str:
    """Return a row in a line."""
    return f"{row['data']}, {row['attack']}, {row['package']}: {row['right']} of {row['n']}, {row['seconds']:.1f} s"


def markdown(rows: list[Row]) -> str:
    """Return the table: every package beside ours, by data and attack."""
    lines = []
    for data, attack in dict.fromkeys((row["data"], row["attack"]) for row in rows):
        found = {
            package: [row for row in rows if (row["data"], row["attack"], row["package"]) == (data, attack, package)]
            for package in PACKAGES
        }
        own = median([row["seconds"] for row in found["ours"]]) if found["ours"] else float("nan")
        for package, runs in found.items():
            if not runs:
                continue
            seconds = median([row["seconds"] for row in runs])
            accuracies = [100 * row["right"] / row["n"] for row in runs]
            spread = f" ({min(accuracies):.1f} to {max(accuracies):.1f})" if len(set(accuracies)) > 1 else ""
            lines.append(
                {
                    "data": data,
                    "attack": attack,
                    "package": f"{package} {runs[-1]['versions'][package]}",
                    "robust accuracy in %": f"{median(accuracies):.1f}{spread}",
                    "CPU s": f"{seconds:.1f}",
                    "times ours": f"{seconds / own:.1f}",
                }
            )
    return table(lines)


if __name__ == "__main__":
    main()
