"""Compare methods on the same encoder, data and attacks: the table that a decision can rest on.

    python examples/compare_methods.py

A method of your own is a class (custom_method.py), or settings with a name, as here. A comparison that was stopped goes
on when it is started again.
"""

from __future__ import annotations

from typing import Any

from genaf_sdk import Comparison, HardenConfig, compare


def main(
    data: Any = "digits", epochs: int = 16, seeds: tuple[int, ...] = (0, 1), output_dir: str = "comparison"
) -> Comparison:
    """Train and attack three methods with every seed; the table and the plot are left in ``output_dir``."""
    default = HardenConfig.preset("default")
    methods = {
        "fine-tuning": HardenConfig.preset("fine-tuning"),
        "default": default,
        "default, no genetic term": default.with_(method={"genetic_weight": 0.0}),
    }
    methods = {name: config.with_(method={"schedule": {"epochs": epochs}}) for name, config in methods.items()}
    comparison = compare("bundled:simclr-cifar10", data, methods, seeds=seeds, output_dir=output_dir)
    print(comparison.markdown())
    return comparison


if __name__ == "__main__":
    main()
