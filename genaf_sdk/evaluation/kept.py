"""What attacks have made, kept in a folder, so that an evaluation that was stopped goes on with it.

An attack is a function of its settings, its seed, its target, its images, what it begins with, and the code. What it
made is kept under a hash of all these, so that nothing is taken for what another setting, model or version would make.
Code is that of this package and of the attack's own. A module of somebody else is told by its weights, its layers and,
roughly, its outputs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import threading
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genaf_sdk.attacks.checks import attack_mode
from genaf_sdk.errors import OutputError
from genaf_sdk.files import read_json, write_json
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.models.fingerprint import fingerprint
from genaf_sdk.report.data import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from genaf_sdk.attacks.base import UniversalAttack

PACKAGE = "genaf_sdk"
COMPLETE_FILE = "complete.json"
"""Comes last: where it is, all perturbations are."""
IMPORTED = time.time()
"""Files that changed later are not the code that runs here."""

logger = logging.getLogger(__name__)
_versions = cache(environment)


class Kept:
    """Perturbations for all images, each attack's in a folder of its own.

    It is for one evaluation, whose modules and images stay as they are: they are hashed once.

    Args:
        folder: Where they are; made with the first. None keeps nothing.
        writes: Whether this process keeps what it makes, as the first of several does; all take what is there.
    """

    def __init__(self, folder: Path | None = None, *, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        self._spared: list[tuple[float, float]] = []
        self._known: dict[int, tuple[Any, Any]] = {}
        self._turns = threading.Lock()

    @property
    def seconds(self) -> float:
        """What crafting took that was done before; of attacks side by side, time counts once."""
        total = until = 0.0
        for began, ended in sorted(self._spared):
            total += max(0.0, ended - max(began, until))
            until = max(until, ended)
        return total

    def made(
        self,
        attack: UniversalAttack,
        target: nn.Module,
        given: Sequence[Tensor],
        seed: int,
        start: Perturbation | None,
        craft: Callable[[], list[Perturbation]],
    ) -> list[Perturbation]:
        """Return what an attack made before of the same, or craft and keep it; ``seconds`` grows by what that spared.

        What cannot be kept costs nothing but that, and is logged.

        Args:
            attack: With its settings.
            target: Pixels (N, C, H, W) in [0, 1] to features or logits.
            given: Images (N, C, H, W) in [0, 1], and labels (N,) where the attack has them.
            seed: Of every random choice.
            start: What the attack begins with.
            craft: Runs the attack.
        """
        folder = self._folder(attack, target, given, seed, start)
        if folder is None:
            return craft()
        try:
            found = _read(folder)
        except (OutputError, KeyError, TypeError) as error:  # damaged: no JSON, or other JSON
            logger.warning("What %s made before is crafted anew, as it cannot be read: %s", attack.name, error)
            found = None
        if found is not None:
            crafted, spared = found
            self._spared.append(spared)
            return crafted
        began = time.time()
        crafted = craft()
        if self.writes:
            try:
                _write(folder, crafted, began)
            except Exception as error:  # of the disk, or of details of a user's attack that are no JSON
                logger.warning("What %s made is not kept for a run that goes on: %s", attack.name, error)
        return crafted

    def by_seeds(
        self,
        attack: UniversalAttack,
        target: nn.Module,
        given: Sequence[Tensor],
        starts: dict[int, Perturbation | None],
        craft: Callable[[int, Perturbation | None], list[Perturbation]],
    ) -> list[Perturbation]:
        """Return what an attack makes by every seed, each kept by itself; all say how long all of them took.

        Args:
            attack: With its settings.
            target: Pixels (N, C, H, W) in [0, 1] to features or logits.
            given: Images (N, C, H, W) in [0, 1], and labels (N,) where the attack has them.
            starts: What the attack begins with, by seed.
            craft: Runs the attack by a seed from a start.
        """
        made = [
            self.made(attack, target, given, seed, start, partial(craft, seed, start)) for seed, start in starts.items()
        ]
        seconds = round(sum(tries[0].seconds for tries in made), 3)
        return [replace(found, details=found.details | {"seconds": seconds}) for tries in made for found in tries]

    def clear(self) -> None:
        """Remove all of it, of an evaluation that is over."""
        if self.folder is not None and self.writes:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _folder(
        self, attack: UniversalAttack, target: nn.Module, given: Sequence[Tensor], seed: int,
        start: Perturbation | None,
    ) -> Path | None:  # fmt: skip
        """Return where all that decides has its place; None where nothing is kept, or something cannot be hashed."""
        if self.folder is None:
            return None
        try:
            parts = {
                "attack": [attack.name, attack.to_dict()],
                "target": self._once(target, partial(_described, target, given[0][:2])),
                "given": [self._once(each, partial(fingerprint, {"": each})) for each in given],
                "seed": seed,
                "start": None if start is None else [start.threat.to_dict(), _tensors(start)],
                "code": _code_of(type(attack)),
                "environment": [_versions(), given[0].device.type],
            }
            text = json.dumps(parts, sort_keys=True, default=repr)
        except Exception as error:  # whatever a user's module, or a tensor of a kind of its own, raises
            logger.warning("What %s makes is not kept for a run that goes on: %r", attack.name, error)
            return None
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def _once(self, given: Tensor | nn.Module, describe: Callable[[], Any]) -> Any:
        """Return what describes images, or a module, which many attacks share."""
        with self._turns:
            if id(given) not in self._known:
                self._known[id(given)] = given, describe()  # it is held, or another one could come to have its id
            return self._known[id(given)][1]


def _described(target: nn.Module, images: Tensor) -> list[Any]:
    """Return, for JSON, what tells modules apart: weights, layers, and roughly what they make of ``images``.

    Outputs tell apart what weights do not, such as normalization; a device may round them otherwise in another process.
    """
    with attack_mode(target), torch.no_grad():
        outputs = target(images).float()
    weights = {**dict(target.named_parameters()), **dict(target.named_buffers())}
    layers = [f"{name}: {type(module).__qualname__}" for name, module in target.named_modules()]
    return [fingerprint(weights), layers, f"{float(outputs.abs().mean()):.3g}"]


def _tensors(perturbation: Perturbation) -> str:
    tensors = {"values": perturbation.values, "mask": perturbation.mask}
    return fingerprint({name: tensor for name, tensor in tensors.items() if tensor is not None})


def _read(folder: Path) -> tuple[list[Perturbation], tuple[float, float]] | None:
    """Return what was kept, and when crafting it began and ended; None where it is not complete.

    Raises:
        OutputError: It is damaged.
    """
    if not (folder / COMPLETE_FILE).is_file():
        return None
    about = read_json(folder / COMPLETE_FILE)
    made = [Perturbation.load(folder / f"{index}.safetensors") for index in range(about["tries"])]
    return made, (about["began"], about["ended"])


def _write(folder: Path, made: list[Perturbation], began: float) -> None:
    ended = time.time()
    for index, perturbation in enumerate(made):
        perturbation.save(folder / f"{index}.safetensors")
    write_json(folder / COMPLETE_FILE, {"tries": len(made), "began": began, "ended": ended})


def _code_of(attack: type) -> list[str]:
    """Return hashes of the code of this package, and of what else an attack is from.

    Raises:
        LookupError: Nobody can tell what it is.
    """
    tops = {each.__module__.partition(".")[0] for each in attack.__mro__} - sys.stdlib_module_names
    return [_hash_of(top) for top in (PACKAGE, *sorted(tops - {PACKAGE}))]


@cache
def _hash_of(top: str) -> str:
    """Return a hash of a package's code, or of the one file that a module is."""
    home = getattr(sys.modules.get(top), "__file__", None)
    if home is None or top == "__main__":  # a notebook's cells are in no file, and a script may go on otherwise
        raise LookupError(f"the code of {top} may have changed")
    path = Path(home)
    files = sorted(path.parent.rglob("*.py")) if path.stem == "__init__" else [path]
    if not files or any(file.stat().st_mtime > IMPORTED for file in files):
        raise LookupError(f"the code of {top} is in no files, or has changed since this process began")
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
