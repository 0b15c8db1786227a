"""Compare methods on the same encoder, data and attacks: the table that a decision can rest on.

    python examples/compare_methods.py

A method of your own is a configuration with a name. A comparison that was stopped goes on when it is started again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from genaf_sdk import Comparison, HardenConfig, compare


def main(data: Any = "digits", epochs: int = 16, output_dir: str = "comparison") -> Comparison:
    """Train and attack three methods with two seeds; the table and the plot are left in ``output_dir``."""
    default = HardenConfig.preset("default")
    methods = {
        "fine-tuning": HardenConfig.preset("fine-tuning"),
        "default": default,
        "default, no genetic term": replace(default, dual_track=replace(default.dual_track, genetic_weight=0.0)),
    }
    methods = {name: replace(m, dual_track=replace(m.dual_track, epochs=epochs)) for name, m in methods.items()}
    comparison = compare("bundled:simclr-cifar10", data, methods, seeds=(0, 1), output_dir=output_dir)
    print(comparison.markdown())
    return comparison


if __name__ == "__main__":
    main()
