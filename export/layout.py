"""Every file of a bundle by name. The rooms that write one know its name; here all of them stand together.

``export/serve`` also runs without this package and keeps its own copy of what it reads; a test holds the two equal.
"""

from __future__ import annotations

from genaf_sdk.models.checksums import CHECKSUMS_FILE, LEFTOVERS, SIGNATURE_FILE
from genaf_sdk.models.storage import CONFIG_FILE, WEIGHTS_FILE
from genaf_sdk.report.robustness import HTML_FILE, PERTURBATION_FOLDER, REPORT_FILE

__all__ = [
    "BILL_FILE",
    "CARD_FILE",
    "CHECKSUMS_FILE",
    "CONFIG_FILE",
    "EVAL_RESULTS_FILE",
    "HTML_FILE",
    "LABELS_FILE",
    "LEFTOVERS",
    "MODEL_FILE",
    "PERTURBATION_FOLDER",
    "REPORT_FILE",
    "SERVE_FOLDER",
    "SIGNATURE_FILE",
    "WEIGHTS_FILE",
    "is_ours",
    "model_files",
    "variant_file",
]

MODEL_FILE, LABELS_FILE, BILL_FILE = "model.onnx", "labels.json", "bom.cdx.json"
CARD_FILE, EVAL_RESULTS_FILE, SERVE_FOLDER = "README.md", ".eval_results/robustness.yaml", "serve"


def variant_file(precision: str) -> str:
    """Return the name of a smaller or faster model beside ``model.onnx``."""
    return f"model.{precision}.onnx"


def model_files(names: list[str]) -> list[str]:
    """Return which of a bundle's files are ONNX models, ``model.onnx`` first."""
    others = sorted(
        name for name in names if name.startswith("model.") and name.endswith(".onnx") and name != MODEL_FILE
    )
    return ([MODEL_FILE] if MODEL_FILE in names else []) + others


def is_ours(name: str) -> bool:
    """Whether a file of that name was written by this package, whatever else lies in the folder.

    ``README.md`` and ``serve/`` are not: a user may have such files, too.
    """
    known = {
        CONFIG_FILE,
        WEIGHTS_FILE,
        MODEL_FILE,
        LABELS_FILE,
        REPORT_FILE,
        HTML_FILE,
        CHECKSUMS_FILE,
        EVAL_RESULTS_FILE,
        BILL_FILE,
        SIGNATURE_FILE,
    }
    perturbation = name.startswith(f"{PERTURBATION_FOLDER}/") and name.endswith(".safetensors")
    return name in known or perturbation or bool(model_files([name]))
