"""Imported by every Python that a test starts with this folder on PYTHONPATH: presets at the size of a test.

``HardenConfig.preset`` is the one way to every preset. It is replaced once somebody imports it, so that a process that
trains nothing does not load what trains.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec


def reduced(config):
    """Return the same method, evaluation and export, as small as they come."""
    method = {"schedule": {"epochs": 1, "encoder_learning_rate": None}}
    if hasattr(config.method, "adaptability"):
        epochs = min(1, config.method.adaptability.epochs)
        sensitivity = {"samples": 64, "steps": 1}
        method["adaptability"] = {"epochs": epochs, "probe_epochs": 0, "interpolations": 1, "sensitivity": sensitivity}
    return config.with_(
        method=method,
        baseline={"epochs": 1},
        export={"precisions": ()},
        evaluation={
            "attacks": ("uapgd:steps=5", "pgd:steps=5"),
            "surrogate_samples": 64,
            "sample_wise_samples": 20,
            "curve": (),
        },
    )


class ReducesPresets(MetaPathFinder):
    """Finds ``genaf_sdk.config`` as it is, and wraps ``HardenConfig.preset`` after it was loaded."""

    def find_spec(self, name, path=None, target=None):
        if name != "genaf_sdk.config":
            return None
        sys.meta_path.remove(self)  # the ordinary finders have the module
        spec = find_spec(name)
        load = spec.loader.exec_module

        def load_and_reduce(module):
            load(module)
            whole = module.HardenConfig.preset
            module.HardenConfig.preset = staticmethod(lambda preset: reduced(whole(preset)))

        spec.loader.exec_module = load_and_reduce
        return spec


sys.meta_path.insert(0, ReducesPresets())
