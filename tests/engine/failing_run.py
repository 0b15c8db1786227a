"""Started by test_processes.py: runs of which one process fails alone, wherever it does something by itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from training import TinyEncoder, stripes

from genaf_sdk import HardenConfig, harden
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.errors import DataError, EncoderError, GenafError, TrainingError
from genaf_sdk.locks import locked_folder

RANK = int(os.environ["RANK"])
CONFIG = HardenConfig().with_(
    machine={"sync_batch_norm": False},
    method={
        "schedule": {"epochs": 1, "batch_size": 32, "encoder_learning_rate": None},
        "adaptability": {"probe_epochs": 0, "epochs": 1, "interpolations": 1, "sensitivity": {"samples": 24}},
    },
    export={"precisions": ()},
)


def fails(error: Exception) -> Callable[..., Any]:
    """Return a function that raises ``error``, whatever it is called with."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@contextmanager
def broken(rank: int, target: str, error: Exception) -> Iterator[None]:
    """Context: in one process, what ``target`` names raises ``error``."""
    with patch(target, fails(error)) if rank == RANK else ExitStack():
        yield


FULL = OSError(28, "No space left on device")
CASES: dict[str, tuple[int, str, Exception]] = {
    "images": (1, "genaf_sdk.pipeline.load_images", DataError("One process cannot read them.")),
    "candidate": (1, "genaf_sdk.pipeline.new_candidate", RuntimeError("out of memory")),
    "preflight": (1, "genaf_sdk.preflight.require_sound", EncoderError("It is not sound here.")),
    "memory": (1, "genaf_sdk.estimates.memory_of_a_step", RuntimeError("out of memory")),
    "run file": (0, "genaf_sdk.engine.checkpoints.write_json", FULL),
    "trackers": (0, "genaf_sdk.pipeline.Metrics.start", ValueError("not logged in")),
    "checkpoint": (0, "genaf_sdk.engine.checkpoints.save_file", FULL),
    "metrics": (0, "genaf_sdk.engine.tracking.replacing", FULL),
    "sensitivity": (1, "genaf_sdk.methods.adaptability.robust_sensitivity", TrainingError("It diverges here.")),
    "model": (0, "genaf_sdk.pipeline.save_model", FULL),
}


def main(folder: Path) -> None:
    """Run every case, and say what each process was told; then that they still train together."""
    torch.set_num_threads(1)
    parts = [LabeledImages.in_memory(*stripes(count, seed)) for seed, count in enumerate((96, 31, 31))]
    data = DataSplits(*parts, class_names=("red", "green", "blue"))
    told: dict[str, str] = {}

    def run(name: str, **options: Any) -> Any:
        torch.manual_seed(0)
        try:
            return harden(TinyEncoder(), data, CONFIG, output_dir=folder / name, evaluate=False, **options)
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}" if isinstance(error, GenafError) else "its own"
            return None

    for name, (rank, target, error) in CASES.items():
        with broken(rank, target, error):
            run(name, preflight=name in ("preflight", "memory"))
    with locked_folder(folder / "locked") if RANK == 0 else ExitStack():
        run("locked", preflight=False)
    result = run("whole", preflight=False)
    told["weights"] = repr([float(value.double().abs().sum()) for value in result.model.state_dict().values()])
    if RANK == 0:
        (folder / "whole" / "checkpoints" / "saved.json").write_text("damaged")
    run("whole", preflight=False, resume=True)
    (folder / f"told-{RANK}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    with patch("genaf_sdk.pipeline._save_bundle"):  # which takes the first process longest, and no other waits for
        main(Path(sys.argv[1]))
    Accelerator().wait_for_everyone()
    torch.distributed.destroy_process_group()
