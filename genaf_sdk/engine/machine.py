"""What a machine needs, apart from what a method is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from genaf_sdk.settings import AtLeast, Settings


@dataclass(frozen=True)
class MachineConfig(Settings):
    """Precision, memory, processes and faults: no part of what a method is."""

    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """``auto`` is bf16 where the device has it natively (GPUs since Ampere, processors with AMX), else no."""
    sync_batch_norm: bool = True
    """Whether batch norm uses the global batch of all processes, so that their number does not change the result."""
    micro_batch_size: Annotated[int, AtLeast(2)] | None = None
    """Largest micro-batch per process; lower it if memory runs out. None: the process's whole share of the batch. The
    losses are still those of the whole batch; batch norm sees a micro-batch at a time, for which it needs pairs. Where
    an image would be left alone, it goes with others, and their micro-batch is larger by one."""
    checkpoint_activations: Literal["auto", "none", "light", "full"] = "auto"
    """What the backward pass computes again instead of keeping it; gradients stay the same. ``light``: norms and
    activation functions in the encoder's blocks. ``full``: all of a block but its input, for one forward pass more.
    ``auto``: the least of it with which a step is estimated to fit into the memory that is free when the run begins."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What to do with a step whose loss or gradient is NaN or infinite. Training stops in any case once more than 10 %
    of the steps were skipped. Gradients that overflow in fp16 are passed over in any case, until their scale fits."""
