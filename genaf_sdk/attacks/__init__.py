"""Attacks on encoders and classifiers: one a file, all on the template of ``base``."""

from genaf_sdk.attacks.advencoder_pat import AdvEncoderPat
from genaf_sdk.attacks.advencoder_per import AdvEncoderPer
from genaf_sdk.attacks.apgd_ce import ApgdCE
from genaf_sdk.attacks.apgd_t import ApgdT
from genaf_sdk.attacks.autoattack import AutoAttack
from genaf_sdk.attacks.base import Attack, EncoderAttack, UniversalModelAttack
from genaf_sdk.attacks.cluster_patch import ClusterPatch
from genaf_sdk.attacks.cluster_uap import ClusterUAP
from genaf_sdk.attacks.dispersion import Dispersion
from genaf_sdk.attacks.encoder_patch import EncoderPatch
from genaf_sdk.attacks.feature_pgd import FeaturePGD
from genaf_sdk.attacks.fff import FFF
from genaf_sdk.attacks.gd_uap import GDUAP
from genaf_sdk.attacks.label_uap import LabelUAP
from genaf_sdk.attacks.noise import Noise
from genaf_sdk.attacks.pap_base import PapBase
from genaf_sdk.attacks.pap_fuse import PapFuse
from genaf_sdk.attacks.pap_ugs import PapUgs
from genaf_sdk.attacks.patch import ImagePatch
from genaf_sdk.attacks.patch_uap import PatchUAP
from genaf_sdk.attacks.pgd import PGD
from genaf_sdk.attacks.plain_patch import PlainPatch
from genaf_sdk.attacks.registry import known_attacks, load_attack, register
from genaf_sdk.attacks.sample_wise import FeatureAttack, SampleWiseAttack
from genaf_sdk.attacks.square import Square
from genaf_sdk.attacks.ssp import SSP
from genaf_sdk.attacks.targeted_uap import TargetedUAP
from genaf_sdk.attacks.uap import UAP
from genaf_sdk.attacks.uapgd import UAPGD
from genaf_sdk.inputs.perturbation import Perturbation

__all__ = [
    "FFF",
    "GDUAP",
    "PGD",
    "SSP",
    "UAP",
    "UAPGD",
    "AdvEncoderPat",
    "AdvEncoderPer",
    "ApgdCE",
    "ApgdT",
    "Attack",
    "AutoAttack",
    "ClusterPatch",
    "ClusterUAP",
    "Dispersion",
    "EncoderAttack",
    "EncoderPatch",
    "FeatureAttack",
    "FeaturePGD",
    "ImagePatch",
    "LabelUAP",
    "Noise",
    "PapBase",
    "PapFuse",
    "PapUgs",
    "PatchUAP",
    "Perturbation",
    "PlainPatch",
    "SampleWiseAttack",
    "Square",
    "TargetedUAP",
    "UniversalModelAttack",
    "known_attacks",
    "load_attack",
    "register",
]
