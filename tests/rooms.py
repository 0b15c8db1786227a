"""The rooms of the package, from the ground up, and what each may import; CONTRIBUTING.md shows the same table."""

from __future__ import annotations

GROUND = "ground"
FLOWS = "flows"
ENTRY = "cli"

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    GROUND: (),
    "inputs": (GROUND,),
    "models": (GROUND, "inputs"),
    "encoders": (GROUND, "inputs", "models"),
    "data": (GROUND, "inputs", "models"),
    "attacks": (GROUND, "inputs", "models"),
    "engine": (GROUND, "inputs", "models", "data"),
    "methods": (GROUND, "inputs", "models", "data", "engine"),
    "report": (GROUND, "inputs"),
    "export": (GROUND, "inputs", "models", "encoders", "data", "report", "export/serve"),
    "export/serve": (),
    "evaluation": (GROUND, "inputs", "models", "encoders", "data", "attacks", "report", "export"),
    FLOWS: (
        GROUND,
        "inputs",
        "models",
        "encoders",
        "data",
        "attacks",
        "engine",
        "methods",
        "report",
        "export",
        "export/serve",
        "evaluation",
    ),
    ENTRY: (
        GROUND,
        "inputs",
        "models",
        "encoders",
        "data",
        "attacks",
        "engine",
        "methods",
        "report",
        "export",
        "export/serve",
        "evaluation",
        FLOWS,
    ),
}
"""Room -> rooms that its files may import, beside one another; inside functions and for type checkers, too."""

FILES_OF = {
    GROUND: (
        *("_version", "errors", "files", "locks", "memory"),
        *("precision", "progress", "registry", "settings", "terminal"),
    ),
    FLOWS: (
        "cells",
        "claims",
        "comparison",
        "config",
        "doctor",
        "drawing",
        "earlier",
        "estimates",
        "fresh_attacks",
        "hardened",
        "pipeline",
        "preflight",
        "preparation",
        "remeasured",
        "result",
        "rows",
        "training",
        "trials",
        "unfinished",
        "verification",
    ),
    ENTRY: ("__init__", "__main__"),
}
"""Rooms that have no folder of their own, or files beside it: their files in ``genaf_sdk/``."""

EVALUATION_TAKES_FROM_EXPORT = ("genaf_sdk.export.runtime",)
"""Exported models are evaluated as any other; nothing else of the export is known there."""

TYPE_CIRCLES: dict[frozenset[str], str] = {
    frozenset(
        {"genaf_sdk.methods.base", "genaf_sdk.methods.lab"}
    ): "a method makes its stages in a lab, and a lab makes a stage of a method",
}
"""Circles of imports that exist for type checkers alone, each with its reason."""
