"""The same run on one process or many: batch sizes in the settings are those over all processes.

    accelerate launch --multi_gpu --num_processes 2 examples/several_gpus.py
    torchrun --nproc_per_node 2 examples/several_gpus.py --quick     # two processes on the CPU, to see that it works

accelerate's own launcher starts one process on CPUs, whatever --num_processes says.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from accelerate import Accelerator

from genaf_sdk import HardenConfig, harden


def main(*, quick: bool) -> None:
    """Harden on all processes; the first one writes and speaks."""
    accelerator = Accelerator(cpu=quick)
    config = HardenConfig.preset("default")
    if quick:
        config = replace(
            config,
            undefended_epochs=1,
            dual_track=replace(config.dual_track, epochs=1),
            adaptability=replace(config.adaptability, epochs=0),
            evaluation=replace(config.evaluation, attacks=("uapgd:steps=10", "pgd"), curve=()),
        )
    result = harden(
        "bundled:simclr-cifar10", "digits", config, output_dir="several-gpus-output", accelerator=accelerator
    )
    if accelerator.is_main_process:
        print(f"{accelerator.num_processes} processes: {result.report.verdict}")


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
