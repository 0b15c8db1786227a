"""Processes that read images: they start once, in every way there is to start one, or a warning says why not."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genaf_sdk.data import LabeledImages, loading
from genaf_sdk.data.loading import loader_options, why_none_can_start
from genaf_sdk.engine.batches import GlobalBatches
from genaf_sdk.engine.processes import ALONE

CPU = torch.device("cpu")


@dataclass
class Signed:
    """A reader whose pixels say which process read them."""

    own: Any = None

    def __call__(self, indices: Sequence[int]) -> Tensor:
        return torch.full((len(indices), 1, 1, 2), float(os.getpid()))

    def identities(self, indices: Sequence[int]) -> None:
        return None


def images(reader: Signed) -> LabeledImages:
    return LabeledImages(torch.arange(12) % 3, reader, on_disk=True)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and 3.13, where it is the system's way
def test_workers_start_once_for_all_epochs(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32" and method != "spawn":
        pytest.skip("Windows only spawns")
    monkeypatch.setattr(loading, "processors", lambda: 3)
    monkeypatch.setattr(loading, "start_method", lambda: method)
    epochs = GlobalBatches(images(Signed()), 3, 0, ALONE)
    readers, orders = [], []
    for epoch in range(2):
        batches = list(epochs.batches(epoch, 0, CPU))
        readers.append({int(batch.inputs[0, 0, 0, 0]) for batch in batches})
        orders.append(torch.cat([batch.labels for batch in batches]).tolist())
    partly = epochs.batches(2, 0, CPU)
    next(partly)
    partly.close()
    again = list(epochs.batches(1, 0, CPU))
    assert readers[0] == readers[1] == {int(batch.inputs[0, 0, 0, 0]) for batch in again}
    assert os.getpid() not in readers[0]
    assert len(readers[0]) == 2
    assert orders[0] != orders[1]
    assert torch.cat([batch.labels for batch in again]).tolist() == orders[1], "what an epoch left is not mixed in"


def test_data_that_cannot_be_pickled_is_read_by_one_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "processors", lambda: 3)
    monkeypatch.setattr(loading, "start_method", lambda: "forkserver")
    unpicklable = images(Signed(lambda x: x))
    assert loader_options(unpicklable, CPU)["num_workers"] == 0
    assert "cannot be pickled" in caplog.text
    assert "lambdas" in caplog.text
    monkeypatch.setattr(loading, "start_method", lambda: "fork")
    assert loader_options(unpicklable, CPU)["num_workers"] == 2
    assert not any(loader_options(images(Signed()), CPU, processes=3)[name] for name in ("num_workers", "pin_memory"))


@pytest.mark.parametrize(
    ("program", "says"),
    [("pass\n", "would run again in each"), ('if __name__ == "__main__":\n    pass\n', ""), ("x = (\n", "")],
)
def test_a_program_that_would_run_again_is_noticed(
    program: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.py"
    path.write_text(program)

    class Main:
        __file__ = str(path)
        __spec__ = None

    monkeypatch.setitem(sys.modules, "__main__", Main)
    found = why_none_can_start(images(Signed()))
    assert says in found
    assert bool(found) == bool(says)
