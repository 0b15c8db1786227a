"""Fine-tune a public image encoder into a classifier that withstands downstream-agnostic adversarial examples.

The whole public surface is named here; a name that needs torch is imported when it is first touched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from genaf_sdk._version import __version__

if TYPE_CHECKING:
    from genaf_sdk.comparison import compare
    from genaf_sdk.config import HardenConfig
    from genaf_sdk.data import DataSplits, load_data
    from genaf_sdk.encoders import load_encoder
    from genaf_sdk.errors import GenafError
    from genaf_sdk.evaluation.evaluate import evaluate
    from genaf_sdk.hardened import HardenedModel
    from genaf_sdk.pipeline import check, harden
    from genaf_sdk.report.robustness import RobustnessReport
    from genaf_sdk.result import HardenResult
    from genaf_sdk.rows import Comparison

_HOME = {
    "Comparison": "rows",
    "DataSplits": "data",
    "GenafError": "errors",
    "HardenConfig": "config",
    "HardenResult": "result",
    "HardenedModel": "hardened",
    "RobustnessReport": "report.robustness",
    "check": "pipeline",
    "compare": "comparison",
    "evaluate": "evaluation.evaluate",
    "harden": "pipeline",
    "load_data": "data",
    "load_encoder": "encoders",
}

__all__ = [
    "Comparison",
    "DataSplits",
    "GenafError",
    "HardenConfig",
    "HardenResult",
    "HardenedModel",
    "RobustnessReport",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "harden",
    "load_data",
    "load_encoder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
