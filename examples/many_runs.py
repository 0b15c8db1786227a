"""A comparison on many processes or machines: each method with each seed is a cell, and any executor runs the cells.

    python examples/many_runs.py processes      # two processes on this machine
    python examples/many_runs.py slurm          # jobs of Slurm; where there is no Slurm, processes here: needs submitit
    python examples/many_runs.py dask           # workers of Dask: needs distributed

What is not done when a machine goes down is done when the program is started again.
"""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from genaf_sdk import Comparison, HardenConfig, compare

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def executor_of(kind: str, folder: str) -> Iterator[Any]:
    """Give an executor; ``folder`` is where Slurm's jobs and their logs lie, which every machine sees."""
    if kind == "processes":
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            yield pool
    elif kind == "slurm":
        import submitit

        jobs = submitit.AutoExecutor(folder=f"{folder}/jobs")
        jobs.update_parameters(timeout_min=240, cpus_per_task=4, slurm_mem="16GB")
        yield jobs
    elif kind == "dask":
        from dask.distributed import Client

        with Client(n_workers=2, threads_per_worker=1) as client:  # or Client("scheduler:8786")
            yield client.get_executor()
    else:
        raise SystemExit(f"There is no {kind!r}: processes, slurm or dask.")


def main(
    kind: str, data: Any = "digits", epochs: int = 16, seeds: tuple[int, ...] = (0, 1), output_dir: str = "many-runs"
) -> Comparison:
    """Train and attack two methods with every seed, each on a worker of its own."""
    short = {"schedule": {"epochs": epochs}}
    methods = {name: HardenConfig.preset(name).with_(method=short) for name in ("fine-tuning", "universal-at")}
    with executor_of(kind, output_dir) as pool:
        comparison = compare("bundled:simclr-cifar10", data, methods, seeds=seeds, output_dir=output_dir, executor=pool)
    print(comparison.markdown())
    return comparison


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "processes")
