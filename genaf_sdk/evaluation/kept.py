"""What attacks have made, kept in a folder, so that an evaluation that was stopped goes on with it.

An attack is a function of its settings, its seed, its target, its images, what it begins with, and the code. What it
made is kept under a hash of all these, so that nothing is taken for what another setting, model or version would make.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import threading
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

logger = logging.getLogger(__name__)


class Kept:
    """Perturbations for all images, each attack's in a folder of its own.

    Args:
        folder: Where they are; made with the first. None keeps nothing.

    Attributes:
        seconds: What crafting took that was done before.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.seconds = folder, 0.0
        self._known: dict[int, tuple[Any, Any]] = {}
        self._turns = threading.Lock()

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
        except OutputError as error:
            logger.warning("%s What %s made before is crafted anew.", error, attack.name)
            found = []
        if found:
            spared = found[0].details.get("seconds")
            with self._turns:
                self.seconds += spared if isinstance(spared, float) else 0.0
            return found
        crafted = craft()
        try:
            _write(folder, crafted)
        except OutputError as error:
            logger.warning("What %s made is not kept for a run that goes on: %s", attack.name, error)
        return crafted

    def clear(self) -> None:
        """Remove all of it, of an evaluation that is over."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _folder(
        self, attack: UniversalAttack, target: nn.Module, given: Sequence[Tensor], seed: int,
        start: Perturbation | None,
    ) -> Path | None:  # fmt: skip
        """Return where all that decides has its place; None where nothing is kept, or something cannot be hashed."""
        code = None if self.folder is None else _code_of(type(attack).__module__)
        if self.folder is None or code is None:
            return None
        try:
            parts = {
                "attack": [attack.name, attack.to_dict()],
                "target": self._once(target, partial(_described, target, given[0][:2])),
                "given": [self._once(each, partial(fingerprint, {"": each})) for each in given],
                "seed": seed,
                "start": None if start is None else [start.threat.to_dict(), _tensors(start)],
                "code": code,
                "environment": [environment(), str(given[0].device)],
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


def _read(folder: Path) -> list[Perturbation]:
    """Return what was kept; nothing where it is not complete.

    Raises:
        OutputError: It is damaged.
    """
    if not (folder / COMPLETE_FILE).is_file():
        return []
    count = read_json(folder / COMPLETE_FILE)["tries"]
    return [Perturbation.load(folder / f"{index}.safetensors") for index in range(count)]


def _write(folder: Path, made: list[Perturbation]) -> None:
    for index, perturbation in enumerate(made):
        perturbation.save(folder / f"{index}.safetensors")
    write_json(folder / COMPLETE_FILE, {"tries": len(made)})


@cache
def _code_of(module: str) -> str | None:
    """Return a hash of this package's code, and of the attack's own where it is somebody else's; None without files."""
    files = sorted(Path(str(sys.modules[PACKAGE].__file__)).parent.rglob("*.py"))
    if module.partition(".")[0] != PACKAGE:
        foreign = getattr(sys.modules.get(module), "__file__", None)
        if foreign is None or module == "__main__":
            return None
        files.append(Path(foreign))
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError:
        return None
    return digest.hexdigest()
