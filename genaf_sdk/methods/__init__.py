"""Methods of fine-tuning: Gen-AF, its parts, and what it is compared with; one file each."""

from genaf_sdk.methods.base import METHODS, Method, Strength, presets
from genaf_sdk.methods.fine_tuning import FineTuning, LinearProbe
from genaf_sdk.methods.gen_af import GenAF
from genaf_sdk.methods.mart import MART
from genaf_sdk.methods.masked import Masked
from genaf_sdk.methods.mixture import Mixture
from genaf_sdk.methods.pgd import PGD
from genaf_sdk.methods.pgd_at import PGDAT
from genaf_sdk.methods.rift import RiFT
from genaf_sdk.methods.steps import SignSteps
from genaf_sdk.methods.trades import TRADES
from genaf_sdk.methods.universal_at import UniversalAT

__all__ = [
    "MART",
    "METHODS",
    "PGD",
    "PGDAT",
    "TRADES",
    "FineTuning",
    "GenAF",
    "LinearProbe",
    "Masked",
    "Method",
    "Mixture",
    "RiFT",
    "SignSteps",
    "Strength",
    "UniversalAT",
    "presets",
]
