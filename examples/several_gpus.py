"""The same run on one process or many: batch sizes in the settings are those over all processes.

    accelerate launch --multi_gpu --num_processes 2 examples/several_gpus.py
    torchrun --nproc_per_node 2 examples/several_gpus.py --quick     # two processes on the CPU, to see that it works

accelerate's own launcher starts one process on CPUs, whatever --num_processes says.
"""

from __future__ import annotations

import sys

from accelerate import Accelerator

from genaf_sdk import HardenConfig, harden


def main(*, quick: bool) -> None:
    """Harden on all processes; the first one writes and speaks."""
    accelerator = Accelerator(cpu=quick)
    config = HardenConfig.preset("default")
    if quick:
        config = config.with_(
            method={"schedule": {"epochs": 1}, "adaptability": {"epochs": 0}},
            baseline={"epochs": 1},
            evaluation={"attacks": ("uapgd:steps=10", "pgd"), "curve": ()},
        )
    result = harden(
        "bundled:simclr-cifar10", "digits", config, output_dir="several-gpus-output", accelerator=accelerator
    )
    if accelerator.is_main_process:
        print(f"{accelerator.num_processes} processes: {result.report.verdict}")


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
