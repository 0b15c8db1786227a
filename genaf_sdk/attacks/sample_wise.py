"""The template of attacks that perturb every image by itself, with labels or without."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from genaf_sdk.attacks.base import Attack, Classifier
from genaf_sdk.attacks.checks import attack_mode, check_labels, check_outputs, check_result
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.keys import Knowledge

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.inputs.perturbation import Perturbation
    from genaf_sdk.inputs.space import InputSpace


@dataclass(frozen=True)
class SampleWise(Attack):
    """What attacks share that perturb every image by itself (per example)."""

    batch_size: ClassVar[int] = 250

    def _images_of_a_step(self, images: int) -> int:
        return images

    def _each(
        self, target: object, pixels: Tensor, run: Callable[[Tensor, slice], Tensor], space: InputSpace
    ) -> Tensor:
        """Return the attacked images, ``run`` batch by batch, each within the budget of its original.

        Batches are of one size, but for one image: an attack may compare the images of a batch.
        """
        count = math.ceil(len(pixels) / self.batch_size)
        parts = [slice(*ends) for ends in pairwise(len(pixels) * part // count for part in range(count + 1))]
        with attack_mode(target), self._folded(target, pixels):
            adversarial = torch.cat([run(pixels[part], part) for part in parts]).detach()
        check_result(self.name, adversarial, pixels.shape)
        # Enforce the stated budget even if an attack has a bug.
        return self.threat.project_inputs(space, adversarial, pixels)


@dataclass(frozen=True)
class SampleWiseAttack(SampleWise):
    """Perturbs every image by itself, knowing the whole classifier and the labels."""

    knowledge = Knowledge.WHITE_BOX

    def __call__(
        self, model: Classifier, pixels: Tensor, labels: Tensor, *, seed: int = 0, start: Perturbation | None = None
    ) -> Tensor:
        """Return adversarial images (N, C, H, W) in [0, 1], each within the budget of its original.

        Args:
            model: Pixels (N, C, H, W) in [0, 1] to logits (N, K); left as it was. A module, or, for attacks whose
                ``needs_gradient`` is False, any callable.
            pixels: Images, (N, C, H, W) in [0, 1].
            labels: Their classes, (N,).
            seed: Seeds every random choice of the attack.
            start: A perturbation for all images of the same threat: an image that the attack leaves right gets it where
                it is misclassified with it, and attacks that can begin anywhere begin there, too.

        Raises:
            AttackError: No images, pixels outside [0, 1], labels missing or not classes of the model, or a model that
                gives NaN, or no gradient where the attack needs one; a start of another shape or threat.
        """
        space = input_space(model, pixels)
        space.check(pixels, repr(self.name))
        classes = check_outputs(self.name, model, pixels, needs_gradient=self.needs_gradient)
        check_labels(self.name, labels, len(pixels), classes)
        if start is not None and start.threat != self.threat:
            raise AttackError(f"{self.name!r} was given a start of {start.threat}.", expected=f"one of {self.threat}")
        generator = torch.Generator().manual_seed(seed)

        def attacked(images: Tensor, part: slice) -> Tensor:
            if start is None:
                return self.run(model, images, labels[part], generator)
            found = self.run_from(model, images, labels[part], generator, start)
            with torch.no_grad():
                given = start.apply(images)
                right, fooled = model(found).argmax(dim=1) == labels[part], model(given).argmax(dim=1) != labels[part]
            return torch.where((right & fooled).view(-1, *[1] * (images.ndim - 1)), given, found)

        return self._each(model, pixels, attacked, space)

    def run_from(
        self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator, start: Perturbation
    ) -> Tensor:
        """Attack as ``run``, also from ``start`` if the attack can begin there.

        ``model``, ``pixels`` (N, C, H, W), ``labels`` (N,) and ``generator`` are what ``run`` is given.
        """
        del start
        return self.run(model, pixels, labels, generator)

    @abstractmethod
    def run(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return ``pixels`` (N, C, H, W) in [0, 1] of classes ``labels`` (N,), perturbed within the threat.

        ``model`` is in eval mode with frozen weights, gradients are enabled, ``generator`` is on the CPU.
        """


@dataclass(frozen=True)
class FeatureAttack(SampleWise):
    """Perturbs every image by itself, knowing an encoder and no labels."""

    knowledge = Knowledge.TRANSFER

    def __call__(self, encoder: nn.Module, pixels: Tensor, *, seed: int = 0) -> Tensor:
        """Return adversarial images (N, C, H, W) in [0, 1], each within the budget of its original.

        Args:
            encoder: Pixels (N, C, H, W) in [0, 1] to features (N, D); left as it was.
            pixels: Images, (N, C, H, W) in [0, 1].
            seed: Seeds every random choice of the attack.

        Raises:
            AttackError: No images, pixels outside [0, 1], or an encoder that gives NaN or no gradient.
        """
        space = input_space(encoder, pixels)
        space.check(pixels, repr(self.name))
        check_outputs(self.name, encoder, pixels, needs_gradient=self.needs_gradient)
        generator = torch.Generator().manual_seed(seed)
        return self._each(encoder, pixels, lambda images, _: self.run(encoder, images, generator), space)

    @abstractmethod
    def run(self, encoder: nn.Module, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Return ``pixels`` (N, C, H, W) in [0, 1], perturbed within the threat.

        ``encoder`` is in eval mode with frozen weights, gradients are enabled, ``generator`` is on the CPU.
        """
