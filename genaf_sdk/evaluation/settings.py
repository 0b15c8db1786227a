"""How a model is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from genaf_sdk.errors import ConfigError
from genaf_sdk.settings import Between, Count, Epsilon, Settings


@dataclass(frozen=True)
class CertificateConfig(Settings):
    """Certificates against one patch anywhere, of any content, by double masking (Xiang et al., USENIX Security 2022).

    They cost up to ``masks`` ^ 2 (``masks`` ^ 2 + 1) / 2 forward passes an image: 136 with 4 masks an axis.
    """

    patch: Epsilon | None = None
    """Share of the image that the patch covers, such as 0.03; None certifies nothing."""
    masks: Annotated[int, Between(1, 16)] = 4
    """Masks along each axis. More of them are smaller, hide less of the object, and cost more passes."""
    samples: Count = 1000
    """How many test images are certified."""


@dataclass(frozen=True)
class AttackConfig(Settings):
    """Under which attacks a model is measured. Those on an encoder fill the transfer and adaptive columns.

    Perturbations and patches, for all images and for each by itself: the strongest of their kind for their time.
    """

    attacks: tuple[str, ...] = (
        "advencoder-per:batch_size=128,noise_maps=8,steps=40",
        "uapgd",
        "cluster-uap",
        "encoder-patch",
        "cluster-patch",
        "plain-patch",
        "label-uap",
        "patch-uap",
        "feature-pgd",
        "pgd",
        "patch",
    )
    """Names, or names with settings: ``pgd:steps=50,budget=4/255``."""
    perturbation_budget: Epsilon = 10 / 255
    """L_inf budget of universal perturbations. Patches keep the area that their attack states."""
    sample_wise_budget: Epsilon = 8 / 255
    """L_inf budget of attacks that perturb each image by itself."""
    attack_seeds: Count = 1
    """How many seeds, from the run's own on, an attack for all images is crafted by; the strongest counts. One seed may
    be some points weaker than the strongest of four. Time grows in proportion."""
    surrogate_samples: Count = 2048
    """How many images a universal perturbation is crafted on. At 224 px they take 1.2 GB of memory."""
    test_samples: Count | None = None
    """How many test images universal perturbations are scored on; None is all."""
    sample_wise_samples: Count = 250
    """How many test images a sample-wise attack is scored on."""
    patch_samples: Count = 100
    """The same for an attack that crafts a patch for every image, which costs more."""

    def check(self) -> None:
        """Refuse an evaluation without attacks.

        Raises:
            ConfigError: There are none.
        """
        if not self.attacks:
            raise ConfigError("attacks is empty.", expected="at least one attack", remedy="`genaf attacks` lists them")


@dataclass(frozen=True)
class EvaluationConfig(AttackConfig):
    """How a model is checked. Attacks on an encoder fill the transfer and adaptive columns, the others white-box.

    Perturbations and patches, for all images and for each by itself: the strongest of their kind for their time.
    """

    curve: tuple[Epsilon, ...] = (4 / 255, 10 / 255, 16 / 255)
    """Budgets at which accuracy is drawn as a curve, under ``uapgd`` and ``pgd`` where these are among the attacks;
    empty draws none."""
    checks: bool = True
    """Whether to look for signs of gradient masking (Carlini et al. 2019)."""
    certificate: CertificateConfig = CertificateConfig()
    """What is to be proven, beside what is measured."""
    corruption_samples: Count | None = None
    """On how many test images common corruptions (noise, blur, weather, compression) are put; None tries none. An image
    is corrupted in 60 ways, which costs 60 forward passes of every model."""


COMPARED = AttackConfig(attacks=(*AttackConfig().attacks, "pgd:budget=4/255"))
"""What methods are compared under: also at half the budget, as few are worth anything at the whole."""
