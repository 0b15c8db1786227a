"""Attacks on encoders and classifiers: one a file, all on the template of ``base``."""

from genaf_sdk.attacks.advencoder import AdvEncoderPer
from genaf_sdk.attacks.base import (
    Attack,
    EncoderAttack,
    SampleWiseAttack,
    UniversalModelAttack,
    known_attacks,
    load_attack,
    register,
)
from genaf_sdk.attacks.noise import Noise
from genaf_sdk.attacks.perturbation import Perturbation
from genaf_sdk.attacks.pgd import PGD
from genaf_sdk.attacks.uapgd import UAPGD

__all__ = [
    "PGD",
    "UAPGD",
    "AdvEncoderPer",
    "Attack",
    "EncoderAttack",
    "Noise",
    "Perturbation",
    "SampleWiseAttack",
    "UniversalModelAttack",
    "known_attacks",
    "load_attack",
    "register",
]
